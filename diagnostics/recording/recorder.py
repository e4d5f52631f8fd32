"""Records the steps of one model: listens while a step runs, and turns what it left into a record when that is read.

What a step leaves are small tensors. Nothing waits for them: `evaluate` brings those of several steps to the host
together, in the order of the steps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from diagnostics.errors import WrongOrder
from diagnostics.recording.calls import unknown_rows
from diagnostics.recording.calls.capture import Capture, RowsFunction
from diagnostics.recording.calls.forward_calls import WHOLE_LOSS
from diagnostics.recording.calls.module_graph import Flow
from diagnostics.recording.finished_steps import ConstantFacts, FinishedStep
from diagnostics.recording.inspection.aliases import Ties, find_aliases, find_lost_ties
from diagnostics.recording.inspection.buffers import FrozenBuffers
from diagnostics.recording.inspection.freezing_attributes import find_freezing_attributes
from diagnostics.recording.inspection.hidden_modules import HiddenModules
from diagnostics.recording.inspection.layers import EqualUnits, find_odd_statistics
from diagnostics.recording.inspection.merged_adapters import MergedAdapters
from diagnostics.recording.inspection.related_rows import has_features, has_matrix_of_rows, relates_rows
from diagnostics.recording.inspection.target_networks import TargetNetworks
from diagnostics.recording.inspection.unregistered_tensors import Strangers
from diagnostics.recording.readout import Readout
from diagnostics.recording.sample_sizes import every_sample
from diagnostics.recording.tensors import tensors_in
from diagnostics.recording.terms.loss_terms import LossTerms
from diagnostics.recording.updates.parameters import ParameterWatch
from diagnostics.recording.updates.watched_parameters import has_values, members, track
from diagnostics.recording.weak_hooks import WeakHook, remove_hooks
from diagnostics.records import LostTie
from diagnostics.selection import covers, find_copies, find_followers, innermost, moded, updates_statistics


@dataclass(frozen=True)
class Setup:
    """What a recorder watches.

    Attributes:
        modules: The watched modules by name.
        optimizers: The optimisers of the training loop.
        rows: Functions of the modules that compute other rows than one per sample, by name.
        every: Interval of the recorded steps.
        expect_frozen: Names or patterns of what must not move.
        partial: Modules that run some calls without gradients on purpose.
        ties: Groups of names that must hold the same tensors.
        targets: Target network -> the module that it follows.
        group: The processes that train the model together.
        whole: Whether the watched modules stand for the whole model, so that its own parameters count too.
    """

    modules: Mapping[str, nn.Module]
    optimizers: Sequence[Optimizer]
    rows: Mapping[str, RowsFunction]
    every: int
    expect_frozen: Sequence[str]
    partial: frozenset[str]
    ties: Ties
    targets: Mapping[str, str]
    group: dist.ProcessGroup | None
    whole: bool = False


class Recorder:
    """Measures steps between `begin` and `finish`."""

    def __init__(self, model: nn.Module, setup: Setup, terms: LossTerms) -> None:
        self._model = model
        self._setup = setup
        self._modules = modules = setup.modules  # a reference to this recorder would keep it alive
        self._moded = {name: layers for name, module in modules.items() if (layers := moded(module))}
        self._equal_units = EqualUnits(model)
        self._merged = MergedAdapters(model)
        self._followers = {
            name: source for name, source in find_followers(model).items() if name not in setup.targets
        }
        self._targets = TargetNetworks(model, setup.targets, self._followers)
        self._parameters, self._members = self._watch_parameters()
        self._unready = any(not has_values(parameter) for parameter in model.parameters())
        self._buffers = FrozenBuffers(
            model,
            lambda name: any(covers(pattern, name) for pattern in setup.expect_frozen),
            lambda name: innermost(name, modules),
        )
        self._strangers = Strangers()
        self._related = False
        self._hidden = HiddenModules(model, lambda path: innermost(path, modules))
        self._terms = terms
        self.flow = Flow()
        """Which module feeds which, after the first recorded step."""
        self.constant = ConstantFacts(
            partial=setup.partial,
            gap=setup.every,
            copies=find_copies(modules),
            kinds={name: type(module).__name__ for name, module in modules.items()},
            aliases=find_aliases(model, setup.ties),
            meant_frozen=find_freezing_attributes(model),
        )
        lost = find_lost_ties(model, setup.ties)
        self._guessed_ties = tuple(tie for tie in lost if not tie.declared)
        self.attached = False
        self._handles: list[RemovableHandle] = []
        self._before: FinishedStep | None = None
        self.capture: Capture | None = None
        self.quiet: dict[str, tuple[str, int]] = {}
        """The calls of the step that is recorded now."""
        self._blind: set[str] = set()  # modules that take no hooks
        self._failure: Exception | None = None  # of the recording, in a call of the step
        weakref.finalize(self, remove_hooks, self._handles)

    def attach(self) -> None:
        """Register the hooks."""
        if self.attached:
            return
        self.attached = True
        for name, module in self._modules.items():
            if not self._hook(
                module.register_forward_hook, WeakHook(self._note_call, name), with_kwargs=True
            ):
                self._blind.add(name)
        self._hook(self._model.register_forward_pre_hook, WeakHook(self._note_model_begins))
        self._hook(self._model.register_forward_hook, WeakHook(self._note_model_call), with_kwargs=True)
        self._parameters.attach()

    def _hook(self, register: Callable[..., RemovableHandle], hook: WeakHook, **options: bool) -> bool:
        """Register a hook; False where that is refused, as by a ScriptModule."""
        try:
            self._handles.append(register(hook, **options))
        except RuntimeError:
            return False
        return True

    def detach(self) -> None:
        """Remove every hook."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.attached = False
        self._hidden.forget()
        self._parameters.detach()

    def _watch_parameters(self) -> tuple[ParameterWatch, dict[str, list[str]]]:
        following = [*self._setup.targets, *self._followers]
        tracked = track(self._model, self._modules, self._setup.expect_frozen, following, self._setup.whole)
        watch = ParameterWatch(tracked, self._setup.optimizers, self._model)
        return watch, members(tracked, self._modules)

    def _look_again(self) -> None:
        """Parameters of lazy modules, and of modules that were on the meta device, may have numbers by now."""
        if self._unready and any(has_values(parameter) for parameter in self._model.parameters()):
            self._parameters.detach()
            self._parameters, self._members = self._watch_parameters()
            self._parameters.attach()
            self._unready = any(not has_values(parameter) for parameter in self._model.parameters())

    def _note_call(
        self, name: str, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any
    ) -> None:
        if self.capture is not None and module is self._modules[name]:
            self.capture.on_forward(name, module, args, kwargs, output)
            self._look_for_strangers(name, (args, kwargs), output)

    def _note_model_begins(self, module: nn.Module, args: Any) -> None:
        if self.capture is not None and module is self._model:
            self.capture.begin_model_call()

    def _note_model_call(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if self.capture is None or module is not self._model:
            return
        self.capture.end_model_call((args, kwargs))
        self._look_for_strangers("", (args, kwargs), output)

    def _look_for_strangers(self, name: str, given: Any, output: Any) -> None:
        """Search what a call used; where that fails, the search ends, and so does the recording of the step."""
        if not self._strangers.looking or not self._is_listening():
            return
        try:
            self._strangers.note(name, tensors_in(given), tensors_in(output))
            self._related = self._related or self._relates_rows(list(tensors_in(given)))
        except Exception as error:  # noqa: BLE001 - `finish` raises it: it must not end a call of the model
            self._strangers.looking = False
            self._failure = error

    def _relates_rows(self, given: Sequence[torch.Tensor]) -> bool:
        samples = 0 if self.capture is None else self.capture.samples
        matrix = has_features(given, samples) and has_matrix_of_rows(self._model, samples)
        return matrix or relates_rows(given, samples)

    def _is_listening(self) -> bool:
        """Whether a step is recorded, and not repeated for the gradient of a term."""
        return self.capture is not None and self.capture.term == WHOLE_LOSS

    def measure_terms(self, terms: Mapping[str, Any]) -> None:
        """Compute the gradients of the named terms of the loss, if a step is recorded."""
        if self.capture is not None:
            self._terms.measure(terms, self.capture, self._parameters)

    def measure_again(self) -> None:
        """Gradients are now those of all processes."""
        self._parameters.measure_again()

    @property
    def reached(self) -> bool:
        """Whether gradient has come to a parameter in the step that is recorded."""
        return bool(self._parameters.arrived)

    def begin(self, samples: int) -> None:
        """Start a step."""
        self._look_again()
        self.capture = capture = Capture(
            every_sample(samples),
            self._setup.rows,
            self.flow,
            self._parameters.before_backward,
            shared=self._setup.group is not None,
            quiet=self.quiet,
        )
        self._parameters.begin()
        for name in self._blind:
            capture.mark_unknown(name, unknown_rows.SCRIPTED)
        self._merged.begin()
        self._buffers.begin()
        self._terms.begin()
        self._handles += self._hidden.begin(self._is_listening)

    def abandon(self) -> None:
        """The step is over, or an exception ended it."""
        if self.capture is not None:
            self.capture.stop()
        self.capture = self._failure = None
        self._parameters.abandon()

    @torch.no_grad()
    def finish(self, number: int) -> FinishedStep:
        """End of the step: stop listening, and note what is read of the model itself.

        Raises:
            WrongOrder: Processes train the model together, and did not tell that they had added their gradients up.
            Exception: Something could not be recorded while the step ran.
        """
        capture = self.capture
        assert capture is not None
        if self._failure is not None:
            raise self._failure
        if self._setup.group is not None and not self._parameters.measured_again:
            raise WrongOrder(
                "monitor.gradients-not-reduced",
                "the gradients of this process are not those of the group:"
                " call monitor.gradients_reduced() after the reduction, before clipping",
            )
        readout = Readout()
        capture.close(readout)
        parameters = self._parameters.finish(readout)
        terms = self._terms.finish(readout, self._parameters)
        buffers = self._buffers.finish(readout)
        targets = self._targets.finish(readout, self._parameters)
        if self._setup.every == 1:
            self._parameters.keep_for_next()
        if self._strangers.looking:
            known = {id(parameter) for parameter in self._model.parameters()}
            self._strangers.close(self._model, known | self._parameters.in_optimizers())
        readout.pack()
        tasks = sorted(capture.passes | parameters.passes.tasks)
        numbers = {task: number for number, task in enumerate(tasks)}
        capture.name_passes(numbers)
        parameters.passes.name_passes(numbers)
        alone = self._setup.group is None
        step = FinishedStep(
            number=number,
            settings=parameters.settings,
            members=self._members,
            capture=capture,
            readout=readout,
            parameters=parameters,
            terms=terms,
            buffers=buffers,
            targets=targets,
            equal_units=self._equal_units.still(),
            merged=self._merged.found,
            odd_statistics=tuple(find_odd_statistics(self._moded, capture.samples)) if alone else (),
            strangers=self._strangers.found,
            hidden=self._hidden.records(self._parameters.in_optimizers()) if self._hidden.found else (),
            lost_ties=self._lost_ties(),
            evaluating={name: found for name in self._moded if (found := self._evaluating(name, capture))},
            adapting=self._adapting(),
            related=self._related,
            alone=alone,
        )
        self._before = step.like(self._before)
        return self._before

    def _lost_ties(self) -> tuple[LostTie, ...]:
        """Declared ties as they are now, and what looks like a lost one since the monitor was made."""
        if not self._setup.ties:
            return self._guessed_ties
        now = find_lost_ties(self._model, self._setup.ties)
        return (*(tie for tie in now if tie.declared), *self._guessed_ties)

    def _adapting(self) -> dict[str, tuple[str, ...]]:
        """Frozen modules, each with its layers that update running statistics all the same."""
        found = {}
        for name, layers in self._moded.items():
            if not any(weight.requires_grad for weight in self._modules[name].parameters()):
                updating = tuple(own for own, layer in layers.items() if updates_statistics(layer))
                if updating:
                    found[name] = updating
        return found

    def _evaluating(self, module: str, capture: Capture) -> tuple[str, ...]:
        """The layers of a module all of whose calls with gradient were made in evaluation mode."""
        trained = [call.training for call in capture.calls.get(module, ()) if call.reached]
        if any(trained) or (not trained and self._modules[module].training):
            return ()  # a single layer set to evaluation is meant
        layers = self._moded[module]
        return tuple(name for name, layer in layers.items() if not layer.training) or tuple(layers)
