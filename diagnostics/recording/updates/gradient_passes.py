"""Notes when backward passes begin and end and when optimisers step, with the norms of the gradients then.

The events of a step are evaluated after the readout; see `pass_history`.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from diagnostics.recording.readout import Readout, Readouts
from diagnostics.recording.tensors import Scalars, measure_norms, real_view, stored_values
from diagnostics.recording.updates.pass_history import PassEvent, PassHistory, is_plain
from diagnostics.records import BackwardPasses, Carried


@dataclass(frozen=True, eq=False)
class PassEvents:
    """The events of one step, and the parameters without gradient when it ended."""

    events: Sequence[PassEvent]
    gone: Sequence[int]
    history: PassHistory

    @property
    def kind(self) -> tuple[Any, ...] | None:
        """What is the same in all steps of one kind; None where there was more than one pass and one update."""
        if not is_plain(self.events, self.gone):
            return None
        return tuple((event.kind, event.optimizer, tuple(event.indices)) for event in self.events)

    @property
    def tasks(self) -> set[int]:
        """Numbers in torch of the backward passes that reached a parameter."""
        return {event.task for event in self.events if event.kind == "end"}

    def name_passes(self, numbers: Mapping[int, int]) -> None:
        """Name the backward passes by their numbers in the step: number in torch -> that."""
        for event in self.events:
            event.task = numbers.get(event.task, -1)

    def evaluate(self, readout: Readouts, names: Sequence[str]) -> tuple[BackwardPasses, dict[int, Carried]]:
        """What became of the passes; steps must be evaluated in their order."""
        if readout.agreement is not None:  # all are plain
            return BackwardPasses(1, lost=((self.events[1].task, frozenset()),)), {}
        return self.history.evaluate(self.events, self.gone, readout, names)


class GradientPasses:
    """The backward passes of a monitor, over its steps."""

    def __init__(self) -> None:
        self._events: list[PassEvent] = []
        self._seen: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        """Parameter -> its gradient and its version, when last seen; a later tensor may get the same id."""
        self._history = PassHistory()

    def begin_step(self, parameters: Sequence[Tensor]) -> None:
        """Start a monitored step."""
        self._events = []
        self._seen = {
            index: _identity(parameter.grad)
            for index, parameter in enumerate(parameters)
            if parameter.grad is not None
        }

    def abandon(self) -> None:
        """A step ended by an exception, or its events are not known: nothing is known about what `.grad` holds."""
        self._events = []
        self._history.forget()

    def begin_pass(self, parameters: Sequence[Tensor], held: tuple[list[int], Scalars] | None = None) -> None:
        """A backward pass begins.

        Args:
            held: Positions and norms of the gradients that are there, where they are known already.
        """
        cleared: set[int] = set()
        changed: list[int] = []
        for index, parameter in enumerate(parameters):
            gradient = parameter.grad
            seen = self._seen.get(index)
            if gradient is None or (seen is not None and seen[0]() is not gradient):
                cleared.add(index)
            elif held is None and not _is_unchanged(seen, gradient):
                changed.append(index)
        if held is not None:
            self._events.append(PassEvent("begin", *held, cleared))
            return
        gradients = [parameters[index].grad for index in changed]
        sizes = measure_norms([stored_values(gradient) for gradient in gradients if gradient is not None])
        self._events.append(PassEvent("begin", changed, sizes, cleared))

    def forget_pass(self) -> None:
        """What began was no backward pass: it wrote no gradient."""
        if self._events and self._events[-1].kind == "begin":
            self._events.pop()

    def end_pass(self, parameters: Sequence[Tensor], indices: list[int], norms: Scalars, task: int) -> None:
        """A backward pass ended; `norms` are those of the sums that it left, `task` its number in torch."""
        for index in indices:
            gradient = parameters[index].grad
            if gradient is not None:
                self._seen[index] = _identity(gradient)
        version, shown = _state_of(parameters[indices[0]]) if indices else (0, ())
        self._events.append(PassEvent("end", indices, norms, version=version, shown=shown, task=task))

    def step(
        self,
        number: int,
        parameters: Sequence[Tensor],
        indices: list[int],
        norms: Scalars,
        arrived: Collection[int],
    ) -> set[int]:
        """An optimiser is about to step; returns the parameters whose gradient was assigned in this step."""
        self._events.append(PassEvent("step", indices, norms, optimizer=number))
        assigned = set()
        for index in indices:
            gradient = parameters[index].grad
            if gradient is None or index in arrived:
                continue
            if not _is_unchanged(self._seen.get(index), gradient):
                assigned.add(index)
        return assigned

    def close(self, parameters: Sequence[Tensor], readout: Readout) -> PassEvents:
        """End of the step: add what has to be read on the CPU."""
        for event in self._events:
            event.key = readout.add_scalars(event.norms)
            event.norms = []
        gone = [index for index, parameter in enumerate(parameters) if parameter.grad is None]
        return PassEvents(self._events, gone, self._history)


_SHOWN = 8
"""Numbers of a weight that show a write which torch does not count, as one to `.data`; on the CPU, where none waits."""


def _state_of(weight: Tensor) -> tuple[int, tuple[float, ...]]:
    """The version of a weight, and some numbers: one of both differs if all of it was written to."""
    plain = weight.is_cpu and type(weight) in (Tensor, nn.Parameter) and weight.is_contiguous()
    shown = real_view(weight.detach()).view(-1)[:_SHOWN].tolist() if plain else ()
    return weight._version, tuple(shown)


def _identity(gradient: Tensor) -> tuple[weakref.ref[Tensor], int]:
    return weakref.ref(gradient), gradient._version


def _is_unchanged(seen: tuple[weakref.ref[Tensor], int] | None, gradient: Tensor) -> bool:
    """Whether a gradient is the tensor that was seen, in the same version."""
    return seen is not None and seen[0]() is gradient and seen[1] == gradient._version
