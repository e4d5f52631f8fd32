"""The calls of modules in one step: what each was given and returned, and which of these tensors anything reads.

Tensors of outermost calls are kept until the step ends; those inside are known by their id as long as they live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.auditing.tracing.calls.agreeing_calls import AgreeingCalls, find_agreeing
from diagnostics.auditing.tracing.calls.dropped_states import DroppedState, RepeatedCalls
from diagnostics.auditing.tracing.calls.given_rows import GivenRows, rows_of
from diagnostics.auditing.tracing.calls.outer_call import OuterCall, is_table
from diagnostics.auditing.tracing.calls.read_times import ReadTimes
from diagnostics.auditing.tracing.calls.twin_calls import DataSources, TwinCalls, find_twins
from diagnostics.auditing.tracing.calls.unread_arguments import (
    DoubledTensor,
    UnreadArgument,
    find_doubled,
    find_unread,
)
from diagnostics.auditing.tracing.input_reads import ASKS
from diagnostics.auditing.tracing.recorded_calls import Arrived
from diagnostics.recording.tensors import address_of, stored_values, tensors_in


@dataclass
class _Open:
    """A call that has not ended yet, with the last event before its body."""

    name: str
    module: nn.Module
    given: list[Tensor]
    since: int
    outer: bool
    doubled: list[DoubledTensor] = field(default_factory=list)


class ModuleCalls:
    """Listens to one step, and says at its end what its calls have in common.

    Attributes:
        twins, agreeing, unread, dropped, rows: What was found.
        broken: Names of modules that were given a NaN from outside.
        first_given: Module -> the floating-point tensors without graph that its first outermost call was given.
    """

    def __init__(self) -> None:
        self.twins: list[TwinCalls] = []
        self.agreeing: list[AgreeingCalls] = []
        self.unread: list[UnreadArgument] = []
        self.dropped: list[DroppedState] = []
        self.rows: list[GivenRows] = []
        self.broken: list[str] = []
        self.first_given: dict[str, list[Tensor]] = {}
        self._open: list[_Open] = []
        self._begin_step()

    def _begin_step(self) -> None:
        self._open.clear()
        self._outer: list[OuterCall] = []
        self._repeated = RepeatedCalls()
        self._times = ReadTimes()
        self._sources = DataSources()
        self._passes = 0
        self._makers: dict[int, str] = {}  # address of what an outermost call returned -> its module

    def passed(self) -> None:
        """A backward pass begins."""
        self._passes += 1

    def note(
        self,
        name: str,
        args: tuple[Any, ...],
        given: Iterable[Tensor],
        result: Any,
        place: Callable[[], str],
    ) -> None:
        """A function was called.

        Args:
            name: Its name.
            args: Its arguments.
            given: All tensors that it was given.
            result: What it returned.
            place: Function that says in which file and line.
        """
        self._times.pass_on()
        if name in ASKS:
            return
        self._times.read(given)
        if self._open:
            self._open[-1].doubled.extend(find_doubled(name, args, place))
        self._sources.note(name, args, result)

    def read(self, tensor: Any) -> None:
        """An attribute of a tensor was asked that is a tensor with its numbers."""
        if isinstance(tensor, Tensor):
            self._times.pass_on()
            self._times.read([tensor])

    def enter(self, name: str, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """A forward pass begins."""
        given = list(tensors_in((args, tuple(kwargs.values()))))
        self._times.pass_on()
        self._times.read(given)
        outer = not self._open
        if outer and name not in self.first_given:
            known = [each for each in given if each.is_floating_point() and is_table(each)]
            self.first_given[name] = [each for each in known if not each.requires_grad]
        # Last: the lines above read the arguments too.
        self._open.append(_Open(name, module, given, self._times.pass_on(), outer))

    def leave(self, name: str, output: Any) -> None:
        """The innermost forward pass ends."""
        if not self._open or self._open[-1].name != name:
            self._open.clear()  # a call that raised has not ended here
            return
        call = self._open.pop()
        returned = list(tensors_in(output))
        self.unread += find_unread(name, call.given, call.doubled, self._times, call.since)
        self._repeated.note(name, call.given, returned, self._times.now)
        if call.outer:
            self._makers.update((address_of(each), name) for each in returned)
            first = next((each for each in returned if each.grad_fn is not None), None)
            outer = OuterCall(name, call.module, call.given, returned, self._passes, Arrived(first))
            self._outer.append(outer)

    @torch.no_grad()
    def finish(self) -> None:
        """The step has ended."""
        with torch._C.DisableTorchFunction():
            self.dropped += self._repeated.find_dropped(self._times)
            self.broken += [call.name for call in self._outer if any(map(_has_nan, call.given))]
            self.rows += [found for call in self._outer if (found := rows_of(call)) is not None]
            self.twins += find_twins(self._outer, self._sources)
            self.agreeing += find_agreeing(self._outer, self._makers)
        self._begin_step()


def _has_nan(tensor: Tensor) -> bool:
    if tensor.requires_grad or tensor.is_nested or tensor.is_meta or not tensor.is_floating_point():
        return False
    return bool(stored_values(tensor.detach()).isnan().any())
