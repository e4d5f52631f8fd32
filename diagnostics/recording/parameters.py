"""Watches the parameters of one step: gradient before clipping, gradient at the optimiser, movement.

The gradient is measured when a backward pass ends, before it can be clipped or cleared: a hook on each
parameter marks it, and a callback at the end of the backward pass measures all marked ones together.
The optimiser's own pre-hook measures it after clipping. Movement compares the weights
at the entry and the exit of the step, whatever moved them.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from diagnostics.recording.grad_scaler import calling_scaler
from diagnostics.recording.gradient_passes import GradientPasses
from diagnostics.recording.optimizer_updates import AppliedUpdates
from diagnostics.recording.readout import Readout
from diagnostics.recording.stored_values import stored_values
from diagnostics.recording.watched_parameters import Tracked, has_values
from diagnostics.recording.weak_hooks import WeakHook, remove_hooks
from diagnostics.records import Absent, BackwardPasses, Number, OptimizerPlace, ParameterRecord, Reach

_SCALER_SOUGHT = 8  # updates after which no GradScaler is looked for any more: a loop has one from the start
_NONE = Absent("no gradient arrived in this step", "no-gradient")
NO_REACH = Reach("none", _NONE, _NONE, _NONE)

_Build = Callable[[frozenset[int], Mapping[int, float] | None], dict[str, ParameterRecord]]


@dataclass(frozen=True)
class _OptimizerGroup:
    optimizer: int
    group: int
    lr: Number
    weight_decay: Number
    eps: Number


class ParameterWatch:
    """Measures the tracked parameters between `begin` and `finish`."""

    def __init__(self, tracked: Sequence[Tracked], optimizers: Sequence[Optimizer]) -> None:
        self._tracked = [
            item
            for item in tracked
            if has_values(item.parameter) and item.parameter.is_floating_point() and item.parameter.numel()
        ]
        self._parameters: list[Tensor] = [item.parameter for item in self._tracked]
        self._position = {id(parameter): index for index, parameter in enumerate(self._parameters)}
        self._optimizers = list(optimizers)
        self._handles: list[RemovableHandle] = []
        self._hooked: set[int] = set()
        self._entry: list[Tensor] = []
        self._updates = AppliedUpdates()
        self._passes = GradientPasses()
        self._largest: dict[int, float] = {}
        self._scaler: weakref.ref[torch.amp.GradScaler] | None = None
        self._scaler_sought = 0
        self.passes = BackwardPasses()
        """The backward passes of the latest step, once its records were built."""
        self._active = False
        self._reset()
        weakref.finalize(self, remove_hooks, self._handles)

    def _reset(self) -> None:
        self._marked: set[int] = set()
        self._arrived: set[int] = set()
        self._callback_queued = False
        self.measured_again = False
        self._measured: list[tuple[list[int], list[Tensor], list[Tensor]]] = []
        self._at_optimizer: list[tuple[list[int], list[Tensor]]] = []
        self._groups: dict[int, _OptimizerGroup] = {}
        self._steps = [0] * len(self._optimizers)
        self._entry_norms: list[Tensor] = []
        self._leftover: tuple[list[int], list[Tensor]] | None = None
        self._leftover_key: int | None = None
        self._assigned: set[int] = set()
        self._scales: dict[int, Tensor] = {}
        self._begun = False  # a backward pass
        self._task = -1  # its number in torch

    def attach(self) -> None:
        """Register the hooks."""
        for number, optimizer in enumerate(self._optimizers):
            self._handles.append(optimizer.register_step_pre_hook(WeakHook(self._before_optimizer, number)))
            self._handles.append(optimizer.register_step_post_hook(WeakHook(self._after_optimizer)))
        self._hook_parameters()

    def detach(self) -> None:
        """Remove every hook and the copy of the weights."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._hooked.clear()
        self._entry.clear()
        self._updates.forget()
        self._passes.abandon()
        self.abandon()

    def abandon(self) -> None:
        """Forget the step in progress."""
        if self._active:  # an exception ended it
            self._passes.abandon()
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
        for index, parameter in enumerate(self._parameters):
            if parameter.requires_grad and index not in self._hooked:
                self._hooked.add(index)
                self._handles.append(parameter.register_hook(WeakHook(self._mark, index)))

    def _mark(self, index: int, gradient: Tensor | None) -> None:
        """A gradient arrives at a parameter."""
        if not self._active or gradient is None:
            return
        self.before_backward()  # here nothing was added to `.grad` yet
        self._marked.add(index)
        if not self._callback_queued:
            self._callback_queued = True
            self._task = torch._C._current_graph_task_id()
            if self._begun:
                self._passes.begin_pass(self._parameters)
            else:  # what it holds is known already
                self._begun = True
                indices, norms = self._leftover or ([], [])
                self._passes.begin_pass(self._parameters, dict(zip(indices, norms, strict=True)))
            # runs when this backward pass ends; DDP and FSDP rely on the same call
            torch.autograd.Variable._execution_engine.queue_callback(self._measure_gradients)

    def before_backward(self) -> None:
        """Measure what earlier steps left in `.grad`, which the backward pass is about to add to."""
        if not self._active or self._leftover is not None:
            return
        held = [(index, parameter.grad) for index, parameter in enumerate(self._parameters)]
        present = [(index, stored_values(gradient)) for index, gradient in held if gradient is not None]
        with torch.no_grad():
            norms = list(torch._foreach_norm([gradient for _, gradient in present], 2)) if present else []
        self._leftover = ([index for index, _ in present], norms)

    def _measure_gradients(self) -> None:
        self._callback_queued = False
        marked, self._marked = sorted(self._marked), set()
        self._arrived.update(marked)
        if self._active:
            self._measure(marked)

    def measure_again(self) -> None:
        """Gradients have changed since the backward pass, by a sum over processes: take them as they are now."""
        if self._active:
            self.measured_again = True
            self._measured.clear()
            self._measure(range(len(self._parameters)))

    def _measure(self, indices: Iterable[int]) -> None:
        held = [(index, self._parameters[index].grad) for index in indices]
        present = [(index, stored_values(gradient)) for index, gradient in held if gradient is not None]
        if not present:
            return
        gradients = [gradient for _, gradient in present]
        with torch.no_grad():
            norms = list(torch._foreach_norm(gradients, 2))
            counts = [torch.count_nonzero(gradient) for gradient in gradients]
        indices = [index for index, _ in present]
        self._measured.append((indices, norms, counts))
        if not self.measured_again:
            self._passes.end_pass(self._parameters, indices, norms, self._task)

    @property
    def tensors(self) -> Sequence[Tensor]:
        """The watched parameters, by position."""
        return self._parameters

    @property
    def names(self) -> list[str]:
        """Their names, by position."""
        return [item.name for item in self._tracked]

    @property
    def fall(self) -> Sequence[Tensor]:
        """What each parameter was at the entry of the step, minus what it is now; valid after `finish`."""
        return self._entry

    @property
    def arrived(self) -> frozenset[int]:
        """Positions of the parameters that a gradient came to in this step, on this process."""
        return frozenset(self._arrived)

    def leftover(self, readout: Readout) -> dict[int, float] | None:
        """Position -> norm of what earlier steps left in `.grad`, after `finish` and once the readout was fetched.

        None where no gradient came to a watched module.
        """
        if self._leftover is None or self._leftover_key is None:
            return None
        return dict(zip(self._leftover[0], readout.numbers(self._leftover_key), strict=True))

    def _before_optimizer(
        self, number: int, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if not self._active:
            return
        self._steps[number] += 1
        self._note_groups(number, optimizer)
        held = [
            (index, self._parameters[index].grad)
            for index, group in self._groups.items()
            if group.optimizer == number
        ]
        present = [(index, stored_values(gradient)) for index, gradient in held if gradient is not None]
        if present:
            with torch.no_grad():
                norms = list(torch._foreach_norm([gradient for _, gradient in present], 2))
            indices = [index for index, _ in present]
            self._look_for_scaler(number)
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

    def _after_optimizer(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._active:
            self._updates.after_optimizer()

    def _note_groups(self, number: int, optimizer: Optimizer) -> None:
        for position, group in enumerate(optimizer.param_groups):
            lr, decay, eps = (_plain(group.get(name, 0.0), name) for name in ("lr", "weight_decay", "eps"))
            place = _OptimizerGroup(number, position, lr, decay, eps)
            for parameter in group["params"]:
                index = self._position.get(id(parameter))
                if index is not None:
                    self._groups[index] = place

    @torch.no_grad()
    def begin(self) -> None:
        """Start a step: copy the weights, listen for gradients."""
        self._reset()
        self._hook_parameters()
        self._active = True
        if not self._parameters:
            return
        self._passes.begin_step(self._parameters)
        if not _alike(self._entry, self._parameters):
            self._entry = [torch.empty_like(parameter) for parameter in self._parameters]
        torch._foreach_copy_(self._entry, self._parameters)
        self._entry_norms = list(torch._foreach_norm(self._entry, 2))
        self._updates.begin(self._entry, self._parameters)

    @torch.no_grad()
    def finish(self, readout: Readout) -> _Build:
        """Stop listening.

        The function returned builds the records once the readout was fetched, from the positions of the
        parameters that a gradient came to on any process, and from what was left over of earlier steps.
        """
        self._active = False
        for number, optimizer in enumerate(self._optimizers):
            if not self._steps[number]:
                self._note_groups(number, optimizer)
        if not self._parameters:
            return lambda arrived, leftover: {}
        torch._foreach_sub_(self._entry, self._parameters)
        weight_key = readout.add_scalars(self._entry_norms)
        update_key = readout.add_scalars(list(torch._foreach_norm(self._entry, 2)))
        frozen = [index for index, parameter in enumerate(self._parameters) if not parameter.requires_grad]
        # the largest difference does not underflow as squares do: it tells whether a bit changed without another read
        largest = torch._foreach_norm([self._entry[index] for index in frozen], math.inf) if frozen else ()
        frozen_key = readout.add_scalars(list(largest))
        self._updates.finish(readout)
        measured = [
            (indices, readout.add_scalars(norms), readout.add_scalars(counts))
            for indices, norms, counts in self._measured
        ]
        if self._leftover is not None:
            self._leftover_key = readout.add_scalars(self._leftover[1])
        at_optimizer = [(indices, readout.add_scalars(norms)) for indices, norms in self._at_optimizer]
        self._passes.close(readout)
        scales = {number: readout.add(scale) for number, scale in self._scales.items()}

        def build(
            arrived: frozenset[int], leftover: Mapping[int, float] | None
        ) -> dict[str, ParameterRecord]:
            gradients: dict[int, tuple[float, float]] = {}
            for indices, norm_key, count_key in measured:
                values = zip(readout.numbers(norm_key), readout.numbers(count_key), strict=True)
                gradients.update(zip(indices, values, strict=True))
            seen: dict[int, float] = {}
            factors = {number: readout.numbers(key)[0] for number, key in scales.items()}
            for indices, key in at_optimizer:
                seen.update(zip(indices, readout.numbers(key), strict=True))
            updates = readout.numbers(update_key)
            kept = self._updates.kept(readout, len(updates))
            apart = dict(zip(frozen, readout.numbers(frozen_key), strict=True))
            changed = self._changed(updates, apart)
            broken = self._broken(updates)
            self.passes, carried = self._passes.evaluate(readout, self._parameters, self.names)
            records = {}
            reaches = [
                self.reach(index, gradients.get(index)) if index in arrived else NO_REACH
                for index in range(len(self._parameters))
            ]
            layers = self._layer_sizes(reaches)
            for index, weight_norm in enumerate(readout.numbers(weight_key)):
                item, parameter, reach = self._tracked[index], self._parameters[index], reaches[index]
                if reach.finite and not isinstance(reach.norm, Absent):
                    self._largest[index] = max(reach.norm, self._largest.get(index, 0.0))
                records[item.name] = ParameterRecord(
                    owner=item.owner,
                    numel=parameter.numel(),
                    requires_grad=parameter.requires_grad,
                    expect_frozen=item.expect_frozen,
                    reach=reach,
                    place=self._place(index, seen, reach, factors),
                    weight_norm=weight_norm,
                    update_norm=updates[index],
                    changed=changed[index],
                    leftover=_leftover(leftover, index),
                    shared=item.shared,
                    rounding=torch.finfo(parameter.dtype).eps,
                    layer_size=layers[_layer(item)],
                    kept=kept[index],
                    replaced=item.replaced,
                    carried=carried.get(index, "no"),
                    assigned=index in self._assigned,
                    largest=self._largest.get(index, 0.0),
                    broken=index in broken,
                )
            return records

        return build

    @torch.no_grad()
    def _changed(self, updates: Sequence[float], frozen: Mapping[int, float]) -> list[bool]:
        """Whether each parameter changed; where the norm is 0 its squares may have underflowed: count.

        Args:
            updates: L2 norm of each change.
            frozen: Position of the parameters that do not require gradient -> their largest difference.
        """
        changed = [frozen.get(index, update) != 0.0 for index, update in enumerate(updates)]
        still = [index for index, update in enumerate(updates) if update == 0.0 and index not in frozen]
        if not still:
            return changed
        readout = Readout()
        key = readout.add_scalars([torch.count_nonzero(self._entry[index]) for index in still])
        readout.fetch()
        for index, count in zip(still, readout.numbers(key), strict=True):
            changed[index] = count > 0
        return changed

    @torch.no_grad()
    def _broken(self, updates: Sequence[float]) -> set[int]:
        """Parameters that are not finite now; only where the norm of the change is not, a norm may overflow alone."""
        return {
            index
            for index, update in enumerate(updates)
            if not math.isfinite(update) and not bool(torch.isfinite(self._parameters[index]).all())
        }

    def reach(self, index: int, measured: tuple[float, float] | None) -> Reach:
        """How far a gradient of this norm and this number of non-zero elements came to a parameter."""
        if measured is None:
            gone = Absent(
                "the gradient arrived and was taken away before the backward pass ended", "taken-away"
            )
            return Reach("some", gone, gone, gone)
        norm, count = measured
        share = count / self._parameters[index].numel()
        kind: Literal["zero", "some", "all"] = "zero" if count == 0 else "all" if share >= 1 else "some"
        return Reach(kind, min(share, 1.0), norm - norm == 0.0, norm)

    def _layer_sizes(self, reaches: Sequence[Reach]) -> dict[str, float]:
        """Layer -> the largest root mean square of a gradient in it."""
        sizes: dict[str, float] = {}
        for item, reach in zip(self._tracked, reaches, strict=True):
            layer, size = _layer(item), reach.size(item.parameter.numel())
            sizes[layer] = max(size, sizes.get(layer, 0.0))
        return sizes

    def _place(
        self, index: int, seen: dict[int, float], reach: Reach, scales: Mapping[int, float]
    ) -> OptimizerPlace | Absent:
        group = self._groups.get(index)
        if group is None:
            if self._optimizers:
                return Absent("in no group of the optimisers", "in-no-group")
            return Absent("no optimiser was given", "no-optimizer")
        stepped = self._steps[group.optimizer] > 0
        gradient: Literal["none", "zero", "nonzero"] | Absent
        norm: Number
        if not stepped:
            gradient = norm = Absent("its optimiser did not step", "no-step")
        elif index not in seen:
            gradient, norm = "none", Absent("the optimiser found no gradient", "no-gradient")
        else:
            norm = seen[index]
            # squares underflow below 1e-23: a gradient that was tiny all along is not one cleared to zero
            tiny = norm == 0.0 and reach.norm == 0.0 and reach.kind in ("some", "all")
            gradient = "zero" if norm == 0.0 and not tiny else "nonzero"
        return OptimizerPlace(
            group.optimizer,
            group.group,
            group.lr,
            group.weight_decay,
            group.eps,
            stepped,
            gradient,
            norm,
            scales.get(group.optimizer, 1.0),
            isinstance(self._optimizers[group.optimizer], torch.optim.LBFGS),
        )

    def in_optimizers(self) -> set[int]:
        """The id of every tensor that an optimiser holds."""
        groups = (group for optimizer in self._optimizers for group in optimizer.param_groups)
        return {id(parameter) for group in groups for parameter in group["params"]}

    @property
    def optimizer_steps(self) -> tuple[int, ...]:
        """How often each optimiser stepped in this step."""
        return tuple(self._steps)


def _layer(item: Tracked) -> str:
    return item.name.rpartition(".")[0]


def _leftover(norms: Mapping[int, float] | None, index: int) -> Literal["none", "zero", "nonzero"] | Absent:
    if norms is None:
        return Absent("no gradient came to a watched module", "no-gradient")
    if index not in norms:
        return "none"
    return "nonzero" if norms[index] else "zero"


def _plain(value: Any, name: str) -> Number:
    if isinstance(value, (int, float)):
        return float(value)
    return Absent(f"{name} is a {type(value).__name__}", "no-number")


def _alike(copies: Sequence[Tensor], parameters: Sequence[Tensor]) -> bool:
    return len(copies) == len(parameters) and all(
        copy.shape == parameter.shape and copy.dtype == parameter.dtype and copy.device == parameter.device
        for copy, parameter in zip(copies, parameters, strict=True)
    )
