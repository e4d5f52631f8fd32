"""A state that a module returns and that the next of its calls is not given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from diagnostics.auditing.tracing.calls.read_times import ReadTimes

_FEWEST_CALLS = 3
"""Calls of one module in a step from which they are those of a loop."""


@dataclass(frozen=True)
class DroppedState:
    """A module that a step called several times with one tensor, and that returned another of its shape unread.

    Attributes:
        module: Name of the module.
        calls: Number of its calls.
        shape: Shape of both.
    """

    module: str
    calls: int
    shape: tuple[int, ...]


@dataclass
class _Repeated:
    """The calls of one module in their order.

    Attributes:
        given: Ids of what each call was given.
        like: What each returned in the shape of a tensor that it was given, by the places of both, and when.
    """

    given: list[list[int]] = field(default_factory=list)
    like: list[dict[tuple[int, int], tuple[Tensor, int]]] = field(default_factory=list)


class RepeatedCalls:
    """The calls of modules that return several tensors."""

    def __init__(self) -> None:
        self._repeated: dict[str, _Repeated] = {}

    def note(self, module: str, given: Sequence[Tensor], returned: Sequence[Tensor], now: int) -> None:
        """A call of a module ends.

        Args:
            module: Its name.
            given, returned: The tensors that it was given and returned.
            now: The number of the event.
        """
        if len(returned) < 2:
            return
        known = self._repeated.setdefault(module, _Repeated())
        known.given.append([id(each) for each in given])
        known.like.append(
            {
                (place, own): (state, now)
                for place, each in enumerate(given)
                for own, state in enumerate(returned)
                if each.requires_grad and each.dim() > 1 and each.shape == state.shape and state is not each
            }
        )

    def find_dropped(self, times: ReadTimes) -> Iterator[DroppedState]:
        """Find the modules whose state is dropped.

        Args:
            times: The times of the step.
        """
        for name, calls in self._repeated.items():
            if len(calls.given) < _FEWEST_CALLS or len({len(each) for each in calls.given}) > 1:
                continue
            columns = [len(set(column)) for column in zip(*calls.given, strict=True)]
            if max(columns) == 1:
                continue  # the same call again
            for place, own in calls.like[0]:
                states = [each[place, own] for each in calls.like if (place, own) in each]
                unread = all(times.is_unread(state, since) for state, since in states)
                if columns[place] == 1 and len(states) == len(calls.like) and unread:
                    yield DroppedState(name, len(calls.given), tuple(states[0][0].shape))
                    break
