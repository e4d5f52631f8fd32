"""An argument of a module that nothing reads, while a concatenation joins another one with itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from torch import Tensor

from diagnostics.auditing.tracing.calls.read_times import ReadTimes

_JOINS = {"cat", "concat", "concatenate", "hstack"}


@dataclass(frozen=True)
class UnreadArgument:
    """An argument of a call that nothing reads, while a concatenation joins another one with itself.

    Attributes:
        module: Name of the module that was given it.
        place: Its place among the tensors that it was given, from 0.
        shape: Its shape.
        doubled: Where the other one is joined with itself.
    """

    module: str
    place: int
    shape: tuple[int, ...]
    doubled: str


@dataclass(frozen=True)
class DoubledTensor:
    """A tensor that a concatenation joins with itself.

    Attributes:
        tensor: The tensor.
        place: Where.
    """

    tensor: Tensor
    place: str


def find_doubled(name: str, args: tuple[Any, ...], place: Callable[[], str]) -> Iterator[DoubledTensor]:
    """Find the tensors that a function joins with themselves.

    Args:
        name: Its name.
        args: Its arguments.
        place: Function that says in which file and line.
    """
    if name in _JOINS and args and isinstance(args[0], (tuple, list)):
        for one, other in combinations(args[0], 2):
            if one is other:
                yield DoubledTensor(one, f"{name}() at {place()}")


def find_unread(
    module: str, given: Sequence[Tensor], doubled: Sequence[DoubledTensor], times: ReadTimes, since: int
) -> Iterator[UnreadArgument]:
    """Find the arguments of a call that nothing read, each with a tensor of its shape that was doubled.

    Args:
        module: Name of the module.
        given: The tensors that it was given.
        doubled: The tensors that were joined with themselves inside.
        times: The times of the step.
        since: The last event before the body of the call.
    """
    for place, each in enumerate(given):
        if not each.requires_grad or not times.is_unread(each, since):
            continue
        alike = (two for two in doubled if _fits(two.tensor, each))
        if (first := next(alike, None)) is not None:
            yield UnreadArgument(module, place, tuple(each.shape), first.place)


def _fits(one: Tensor, other: Tensor) -> bool:
    return one.shape[:1] == other.shape[:1] and one.shape[2:] == other.shape[2:]
