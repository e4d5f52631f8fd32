"""Two calls that were given the same data in different memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.auditing.tracing.calls.outer_call import OuterCall
from diagnostics.recording.tensors import address_of

_COPIES = {"clone", "detach", "contiguous", "to", "float", "double", "view", "reshape", "requires_grad_"}
"""Functions whose result holds all numbers of their first argument."""
_FEWEST_ROWS = 8
"""Rows of which it is no chance that another tensor has them all."""


@dataclass(frozen=True)
class TwinCalls:
    """Two calls that were given the same numbers in different memory.

    Attributes:
        one, other: Names of the modules, which are one or have the same class and shapes.
        rows: Number of rows that the shorter tensor has.
    """

    one: str
    other: str
    rows: int


class DataSources:
    """The tensors that data were copied or picked from in a step."""

    def __init__(self) -> None:
        self._sources: dict[int, tuple[Tensor, Any]] = {}  # tensors are kept, so that no id comes twice

    def note(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        """A function was called."""
        made = isinstance(result, Tensor) and not result.requires_grad
        if not made or not args or not isinstance(args[0], Tensor):
            return
        if name in _COPIES:
            self._sources[id(result)] = (result, self._of(args[0]))
        elif name == "__getitem__" and len(args) > 1:
            index = args[1] if isinstance(args[1], (int, slice)) else id(args[1])
            key = (self._of(args[0]), repr(index))
            self._sources[id(result)] = (result, (key, args[0], args[1]))  # the index is kept too

    def _of(self, tensor: Tensor) -> Any:
        found = self._sources.get(id(tensor))
        return found[1] if found is not None and found[0] is tensor else id(tensor)

    def key(self, tensor: Tensor) -> Any:
        """What is the same for two tensors that hold the same part of one tensor."""
        found = self._of(tensor)
        return found[0] if isinstance(found, tuple) else found

    def is_picked(self, tensor: Tensor) -> bool:
        """Whether the step picked its rows from another tensor by their numbers."""
        found = self._of(tensor)
        return isinstance(found, tuple) and not isinstance(found[2], (int, slice))


def find_twins(calls: Sequence[OuterCall], sources: DataSources) -> Iterator[TwinCalls]:
    """Find the pairs of calls that were given the same data.

    Args:
        calls: The outermost calls of a step.
        sources: The tensors that their data come from.
    """
    for first, second in combinations(calls, 2):
        same_module = first.module is second.module
        if first.passes != second.passes or not (same_module or _are_alike(first.module, second.module)):
            continue
        one, other = first.largest, second.largest
        if one is None or other is None or not _have_own_memory(one, other, sources):
            continue
        if not same_module and sources.is_picked(one) != sources.is_picked(other):
            continue  # the same rows may have been picked for the first one before the step began
        if same_module and not _return_the_same(first, second):
            continue
        rows = _shared_rows(first.code, second.code)
        if rows:
            yield TwinCalls(first.name, second.name, rows)


def _have_own_memory(one: Tensor, other: Tensor, sources: DataSources) -> bool:
    if one is other or one.requires_grad or other.requires_grad:
        return False
    return address_of(one) != address_of(other) and sources.key(one) != sources.key(other)


def _return_the_same(one: OuterCall, other: OuterCall) -> bool:
    pairs = list(zip(one.returned, other.returned, strict=False))
    return bool(pairs) and all(
        first.shape == second.shape and torch.allclose(first.float(), second.float(), 1e-5, 1e-6)
        for first, second in pairs
    )


def _are_alike(one: nn.Module, other: nn.Module) -> bool:
    shapes = [[(name, each.shape) for name, each in module.named_parameters()] for module in (one, other)]
    return type(one) is type(other) and bool(shapes[0]) and shapes[0] == shapes[1]


def _shared_rows(one: Tensor | None, other: Tensor | None) -> int:
    """How many rows the shorter has, if the longer has them all, and they are not nearly all the same."""
    if one is None or other is None:
        return 0
    long, short = (one, other) if len(one) >= len(other) else (other, one)
    if len(short) < _FEWEST_ROWS or 2 * len(short) < len(long) or len(short.unique()) < _FEWEST_ROWS:
        return 0
    same = torch.equal(long, short) if len(long) == len(short) else bool(torch.isin(short, long).all())
    return len(short) if same else 0
