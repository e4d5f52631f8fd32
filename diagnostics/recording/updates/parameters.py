"""Watches the parameters of one step: gradient before clipping, gradient at the optimiser, movement.

The gradient is measured when a backward pass ends, before it can be clipped or cleared: a hook on each
parameter marks it, and a callback at the end of the backward pass measures all marked ones together.
The optimiser's own pre-hook measures it after clipping. Movement compares the weights
at the entry and the exit of the step, whatever moved them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from diagnostics.recording.readout import Readout
from diagnostics.recording.tensors import Scalars, count_nonzero, measure_norms, stored_values
from diagnostics.recording.updates.gradient_passes import GradientPasses
from diagnostics.recording.updates.optimizer_updates import AppliedUpdates
from diagnostics.recording.updates.optimizers import calling_scaler, list_inner
from diagnostics.recording.updates.parameter_movement import Movement
from diagnostics.recording.updates.parameter_records import ParameterStep, Settings, plain_number, reach
from diagnostics.recording.updates.watched_parameters import Tracked, has_values
from diagnostics.recording.weak_hooks import WeakHook, remove_hooks
from diagnostics.records import Reach

_SCALER_SOUGHT = 8  # updates after which no GradScaler is looked for any more: a loop has one from the start
_SETTINGS = ("lr", "weight_decay", "eps")
_ADAMS = (torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam, torch.optim.SparseAdam)
"""Optimisers whose `betas` average gradients and their squares; AdamW is an Adam."""


class ParameterWatch:
    """Measures the tracked parameters between `begin` and `finish`."""

    def __init__(
        self, tracked: Sequence[Tracked], optimizers: Sequence[Optimizer], model: nn.Module | None = None
    ) -> None:
        self._model = None if model is None else weakref.ref(model)
        self._tracked = [
            item
            for item in tracked
            if has_values(item.parameter) and _holds_numbers(item.parameter) and item.parameter.numel()
        ]
        self._parameters: list[Tensor] = [item.parameter for item in self._tracked]
        self._position = {id(parameter): index for index, parameter in enumerate(self._parameters)}
        self._optimizers = list(optimizers)
        self._handles: list[RemovableHandle] = []
        self._hooked: set[int] = set()
        self._movement = Movement(
            self._parameters, [index for index, item in enumerate(self._tracked) if item.is_target]
        )
        self._updates = AppliedUpdates()
        self._passes = GradientPasses()
        self._largest: dict[int, float] = {}
        self._scaler: weakref.ref[torch.amp.GradScaler] | None = None
        self._scaler_sought = 0
        # The optimiser that calls a closure now. It outlasts a step: in a script, a step begins with a forward pass.
        self._caller: tuple[int, Optimizer] | None = None
        self._successors: dict[
            int, weakref.ref[Tensor]
        ] = {}  # what was in the place of a parameter after a step
        self._running: dict[int, int] = {}  # number of an optimiser -> id of that which steps for it now
        self._active = False
        self._reset()
        weakref.finalize(self, remove_hooks, self._handles)

    def _reset(self) -> None:
        self._marked: set[int] = set()
        self._arrived: set[int] = set()
        self._written: set[int] = set()  # into .grad, which torch.autograd.grad() does not do
        self._written_now: set[int] = set()  # by the pass that runs
        self._callback_queued = False
        self.measured_again = False
        self._measured: list[tuple[list[int], Scalars, Scalars]] = []
        self._at_optimizer: list[tuple[list[int], Scalars]] = []
        self._groups: dict[int, tuple[int, int]] = {}
        self._group_settings: dict[tuple[int, int], Settings] = {}
        self._steps = [0] * len(self._optimizers)
        self._leftover: tuple[list[int], Scalars] | None = None
        self._assigned: set[int] = set()
        self._fed: set[int] = set()  # positions of parameters whose successor has a gradient
        self._scales: dict[int, Tensor] = {}
        self._idle: dict[int, int] = {}
        self._found: tuple[list[int], Scalars] | None = None  # gradients that a closure may add to
        self._begun = False  # a backward pass
        self._task = -1  # its number in torch

    def attach(self) -> None:
        """Register the hooks."""
        for number, optimizer in enumerate(self._optimizers):
            given = {id(other) for other in self._optimizers if other is not optimizer}
            for each in [optimizer, *list_inner(optimizer)]:
                if id(each) not in given:
                    before = WeakHook(self._before_optimizer, number)
                    after = WeakHook(self._after_optimizer, number)
                    self._handles.append(each.register_step_pre_hook(before))
                    self._handles.append(each.register_step_post_hook(after))
        self._hook_parameters()

    def detach(self) -> None:
        """Remove every hook and the copy of the weights."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._hooked.clear()
        self._movement.release()
        self._updates.forget()
        self._passes.abandon()
        self.abandon()

    def abandon(self) -> None:
        """Forget the step in progress."""
        self._running.clear()
        if self._active:  # an exception ended it
            self._passes.abandon()
            self._movement.forget()
        self._active = False
        self._reset()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Gradients that are computed in the block are not those of the step."""
        self._active, was = False, self._active
        try:
            yield
        finally:
            self._active = was

    def _hook_parameters(self) -> None:
        """Hook each parameter that requires gradient now; torch refuses hooks on the others."""
        if len(self._hooked) == len(self._parameters):
            return
        for index, parameter in enumerate(self._parameters):
            if parameter.requires_grad and index not in self._hooked:
                self._hooked.add(index)
                self._handles.append(parameter.register_hook(WeakHook(self._mark, index)))
                written = WeakHook(self._note_written, index)
                self._handles.append(parameter.register_post_accumulate_grad_hook(written))

    def _mark(self, index: int, gradient: Tensor | None) -> None:
        """A gradient arrives at a parameter."""
        if not self._active or gradient is None:
            return
        if self._leftover is None:
            self.before_backward()  # here nothing was added to `.grad` yet
        self._marked.add(index)
        if not self._callback_queued:
            self._callback_queued = True
            self._task = torch._C._current_graph_task_id()
            if self._begun:
                self._passes.begin_pass(self._parameters)
            else:  # what it holds is known already
                self._begun = True
                self._passes.begin_pass(self._parameters, self._leftover or ([], []))
            # runs when this backward pass ends; DDP and FSDP rely on the same call
            torch.autograd.Variable._execution_engine.queue_callback(self._measure_gradients)

    def _note_written(self, index: int, parameter: Tensor) -> None:
        if self._active:
            self._written_now.add(index)

    def before_backward(self) -> None:
        """Measure what earlier steps left in `.grad`, which the backward pass is about to add to."""
        if not self._active or self._leftover is not None:
            return
        indices, gradients = self._gradients(range(len(self._parameters)))
        self._leftover = (indices, measure_norms(gradients))

    def _gradients(self, indices: Iterable[int]) -> tuple[list[int], list[Tensor]]:
        """Positions of the parameters that hold a gradient, of those given, and what it holds."""
        held = [(index, self._parameters[index].grad) for index in indices]
        present = [(index, gradient) for index, gradient in held if gradient is not None]
        return [index for index, _ in present], [
            stored_values(gradient) if gradient.is_sparse else gradient for _, gradient in present
        ]

    def _measure_gradients(self) -> None:
        self._callback_queued = False
        marked, self._marked = sorted(self._marked), set()
        self._arrived.update(marked)
        self._fed.update(index for index in self._successors if self._is_fed(index))
        written, self._written_now = self._written_now, set()
        self._written |= written
        if self._active and written:
            self._measure(marked)
        elif self._active:  # torch.autograd.grad() reads gradients, and leaves .grad as it was
            self._passes.forget_pass()

    def _is_fed(self, index: int) -> bool:
        successor = self._tracked[index].successor
        return successor is not None and successor.grad is not None

    def _find_remade(self, replaced: Sequence[bool]) -> frozenset[int]:
        """Positions of the parameters in whose place the step has put another one, which got no gradient."""
        found = set()
        for index in compress(range(len(replaced)), replaced):
            successor, before = self._tracked[index].successor, self._successors.get(index)
            if successor is not None:
                if (before is None or before() is not successor) and not (
                    index in self._fed or self._is_fed(index)
                ):
                    found.add(index)
                self._successors[index] = weakref.ref(successor)
        return frozenset(found)

    def measure_again(self) -> None:
        """Gradients have changed since the backward pass, by a sum over processes: take them as they are now."""
        if self._active:
            self.measured_again = True
            self._measured.clear()
            self._measure(range(len(self._parameters)))

    def _measure(self, indices: Iterable[int]) -> None:
        present, gradients = self._gradients(indices)
        if not present:
            return
        norms = measure_norms(gradients)
        self._measured.append((present, norms, count_nonzero(gradients)))
        if not self.measured_again:
            self._passes.end_pass(self._parameters, present, norms, self._task)
        if self._caller is not None:
            self._found = None  # it applies the sum
            self._apply(self._caller[0], present, norms)

    @property
    def tensors(self) -> Sequence[Tensor]:
        """The watched parameters, by position."""
        return self._parameters

    @property
    def names(self) -> list[str]:
        """Their names, by position."""
        return [item.name for item in self._tracked]

    @property
    def fall(self) -> Mapping[int, Tensor]:
        """What each copied parameter was at the entry of the step, minus what it is now; valid after `finish`."""
        return self._movement.fall

    @property
    def arrived(self) -> frozenset[int]:
        """Positions of the parameters that a gradient came to in this step, on this process."""
        return frozenset(self._arrived)

    def _before_optimizer(
        self, number: int, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self._running.setdefault(number, id(optimizer)) != id(optimizer):
            return  # another one steps, and calls this one
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        self._caller = None if closure is None else (number, optimizer)
        if not self._active:
            return
        self._steps[number] += 1
        self._note_groups(number, optimizer)
        self._note_idle(number, optimizer)
        own = [index for index, (optimizer, _) in self._groups.items() if optimizer == number]
        indices, gradients = self._gradients(own)
        if indices:
            self._look_for_scaler(number)
            norms = measure_norms(gradients)
            if closure is None:
                self._apply(number, indices, norms)
            else:
                self._found = (indices, norms)

    def _apply(self, number: int, indices: list[int], norms: Scalars) -> None:
        """An optimiser applies the gradients that it finds, or that its closure brings."""
        self._at_optimizer.append((indices, norms))
        self._assigned |= self._passes.step(number, self._parameters, indices, norms, self._arrived)

    def _look_for_scaler(self, number: int) -> None:
        """Whether a GradScaler calls the step; it is sought in the first steps alone, and remembered."""
        if self._scaler is None and self._scaler_sought < _SCALER_SOUGHT:
            self._scaler_sought += 1
            found = calling_scaler()
            self._scaler = None if found is None else weakref.ref(found)
        scaler = None if self._scaler is None else self._scaler()
        scale = None if scaler is None else scaler._get_scale_async()
        if scale is not None:
            self._scales[number] = scale.detach().clone()

    def _after_optimizer(
        self, number: int, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self._running.get(number, id(optimizer)) != id(optimizer):
            return
        self._running.pop(number, None)
        caller, self._caller = self._caller, None
        if self._active and caller is not None and self._found is not None:
            self._apply(caller[0], *self._found)
        self._found = None
        if self._active:
            self._updates.after_optimizer()

    def _note_groups(self, number: int, optimizer: Optimizer) -> None:
        for position, group in enumerate(optimizer.param_groups):
            lr, decay, eps = (plain_number(group.get(name, 0.0), name) for name in _SETTINGS)
            place = (number, position)
            betas = group["betas"] if isinstance(optimizer, _ADAMS) else (0.0, 0.0)
            mean, square = (plain_number(beta, "beta") for beta in betas)
            self._group_settings[place] = (lr, decay, eps, mean, square)
            for parameter in group["params"]:
                index = self._position.get(id(parameter))
                if index is not None:
                    self._groups[index] = place

    def _note_idle(self, number: int, optimizer: Optimizer) -> None:
        """Count what an optimiser holds that is not in the model, and has no gradient whenever it steps."""
        without = [
            each
            for group in optimizer.param_groups
            for each in group["params"]
            if each.grad is None and id(each) not in self._position
        ]
        model = None if self._model is None or not without else self._model()
        known = set() if model is None else {id(each) for each in model.parameters()}
        count = 0 if model is None else sum(id(each) not in known for each in without)
        self._idle[number] = min(self._idle.get(number, count), count)

    @torch.no_grad()
    def begin(self) -> None:
        """Start a step: copy the weights, listen for gradients."""
        self._reset()
        self._hook_parameters()
        self._active = True
        if not self._parameters:
            return
        if self._caller is not None:
            self._steps[self._caller[0]] += 1
            self._note_groups(*self._caller)
        self._passes.begin_step(self._parameters)
        self._movement.begin(self._updates.begin(self._parameters))

    def keep_for_next(self) -> None:
        """Copy the weights now, while they are in the caches, for a step that begins with the same ones."""
        self._movement.keep_for_next()

    def finish(self, readout: Readout) -> ParameterStep:
        """Stop listening; what is returned builds the records, once the readout was fetched."""
        self._active = False
        for number, optimizer in enumerate(self._optimizers):
            if not self._steps[number]:
                self._note_groups(number, optimizer)
        moves = self._movement.finish()
        replaced = tuple([item.replaced for item in self._tracked])
        return ParameterStep(
            tracked=self._tracked,
            requires_grad=tuple([parameter.requires_grad for parameter in self._parameters]),
            replaced=replaced,
            remade=self._find_remade(replaced),
            groups=self._groups,
            settings=self._group_settings,
            steps=tuple(self._steps),
            stops_itself=[isinstance(each, torch.optim.LBFGS) for each in self._optimizers],
            measured=[
                (indices, readout.add_scalars(norms), readout.add_scalars(counts))
                for indices, norms, counts in self._measured
            ],
            at_optimizer=[(indices, readout.add_scalars(norms)) for indices, norms in self._at_optimizer],
            left=None
            if self._leftover is None
            else (self._leftover[0], readout.add_scalars(self._leftover[1])),
            scales={number: readout.add(scale) for number, scale in self._scales.items()},
            weight_key=readout.add_scalars(moves.weights),
            update_key=readout.add_scalars(moves.updates),
            changed_key=readout.add_scalars(moves.changed),
            still=moves.still,
            moved=self._movement.moved,
            broken=moves.broken,
            updates=self._updates.finish(readout),
            passes=self._passes.close(self._parameters, readout),
            assigned=frozenset(self._assigned),
            arrived=frozenset(self._arrived),
            largest=self._largest,
            idle=sum(self._idle.values()),
            read=frozenset(self._arrived - self._written),
        )

    def reach(self, index: int, measured: tuple[float, float] | None) -> Reach:
        """How far a gradient of this norm and this number of non-zero elements came to a parameter."""
        return reach(self._parameters[index].numel(), measured)

    def in_optimizers(self) -> set[int]:
        """The id of every tensor that an optimiser holds."""
        groups = (group for optimizer in self._optimizers for group in optimizer.param_groups)
        return {id(parameter) for group in groups for parameter in group["params"]}


def _holds_numbers(parameter: Tensor) -> bool:
    return parameter.is_floating_point() or parameter.is_complex()
