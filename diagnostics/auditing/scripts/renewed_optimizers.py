"""Optimisers that a running program makes anew for each pass over its data, which loses their averages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.utils.data import DataLoader

from diagnostics.auditing.probes.operations.call_checks import OPTIMIZER_RENEWED, STATE002
from diagnostics.auditing.scripts.live_objects import held_by
from diagnostics.findings import Finding

_PASSES = 3
"""Passes in a row with an optimiser each: two may be two stages of the training."""
Stepping = tuple[int, type[Optimizer], frozenset[int]]
"""Number of an optimiser, its class, and the ids of the tensors that it holds."""


@dataclass
class _DataPass:
    """One pass over a data set, with the optimisers that stepped meanwhile."""

    data: Any
    optimizers: set[Stepping] = field(default_factory=set)


class RenewedOptimizers:
    """The latest passes over data sets in which optimisers with averages stepped."""

    def __init__(self) -> None:
        self._numbers: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()  # ids come twice
        self._next = count()
        self._passes: list[_DataPass] = []
        self._found: list[Finding] = []

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note the passes in the block."""
        begin = DataLoader.__iter__

        def note(loader: DataLoader[Any]) -> Any:
            self._begin_pass(loader.dataset)
            return begin(loader)

        with patch.object(DataLoader, "__iter__", note):
            yield

    def note_update(self, optimizer: Optimizer) -> None:
        """An optimiser has updated the models."""
        if self._passes and not isinstance(optimizer, LBFGS) and _has_averages(optimizer):
            if optimizer not in self._numbers:
                self._numbers[optimizer] = next(self._next)
            stepping = (self._numbers[optimizer], type(optimizer), frozenset(held_by([optimizer])))
            self._passes[-1].optimizers.add(stepping)

    def findings(self) -> list[Finding]:
        """STATE002, if the program does so."""
        self._judge()
        return self._found

    def _begin_pass(self, data: Any) -> None:
        self._judge()
        kept = [each for each in self._passes if each.optimizers]  # the others are for validation
        self._passes = [*kept[1 - _PASSES :], _DataPass(data)]

    def _judge(self) -> None:
        passes = [each for each in self._passes if each.optimizers]
        if self._found or len(passes) < _PASSES:
            return
        first = passes[0]
        alone = all(each.data is first.data and len(each.optimizers) == 1 for each in passes)
        every = [stepping for each in passes for stepping in each.optimizers]
        numbers, kinds, held = ({stepping[place] for stepping in every} for place in range(3))
        if alone and len(numbers) == len(passes) and len(kinds) == len(held) == 1:
            ((_, kind, _),) = first.optimizers
            self._found = [STATE002.found_once("", OPTIMIZER_RENEWED.of(optimizer=kind.__name__))]


def _has_averages(optimizer: Optimizer) -> bool:
    """Whether it keeps tensors for the next update, other than a number of steps."""
    values = (value for state in optimizer.state.values() for value in state.values())
    return any(isinstance(value, Tensor) and value.dim() > 0 for value in values)
