"""Measures which share of the optimisers' change is left at the end of a step.

Compares a few numbers of each parameter at the entry of the step, after the last optimiser's step, and at the exit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diagnostics.recording.readout import Readout, Readouts
from diagnostics.recording.tensors import real_view
from diagnostics.records import Absent

_SOME = 64  # numbers per parameter: the share is nearly the same for all of its numbers, and 64 cost next to nothing
_NO_STEP = Absent("no optimiser stepped", "no-step")
_NO_CHANGE = Absent("the optimisers changed none of the numbers that are compared", "no-change")


@dataclass(frozen=True, eq=False)
class UpdateKeys:
    """The compared numbers of one step.

    Attributes:
        sizes: Of each device: positions of its parameters, and how many numbers there are of each.
        keys: Of each device: keys of the numbers at the entry, after the last optimiser's step, and at the exit.
    """

    sizes: Sequence[tuple[Sequence[int], Sequence[int]]] = ()
    keys: Sequence[tuple[int, int, int]] = ()

    def estimate(self, readout: Readouts, position: int, numel: int) -> Any:
        """The norm of the change of a parameter over the step, from its compared numbers; 0 where they did not change.

        NaN where no optimiser stepped.
        """
        for (order, sizes), (entry, _, left) in zip(self.sizes, self.keys, strict=True):
            if position in order:
                place = list(order).index(position)
                moved = _norms(readout.rows(entry) - readout.rows(left), sizes)[place]
                return readout.column([each * math.sqrt(numel / sizes[place]) for each in moved])
        return readout.column([math.nan] * readout.steps)

    def kept(self, readout: Readouts, count: int) -> list[Any]:
        """For each of `count` parameters the share of its update that is left, once the readout was fetched.

        Numbers that are exactly what they were do not count, as long as there are others: a program that puts back some
        rows of a table, or a mask over weights, does so on purpose, and an average leaves a share of every number.
        """
        if not self.keys:
            return [_NO_STEP] * count
        kept: list[Any] = [_NO_CHANGE] * count
        for (order, sizes), keys in zip(self.sizes, self.keys, strict=True):
            entry, applied, left = (readout.rows(key) for key in keys)
            updates = counted = rests = _norms(entry - applied, sizes)
            if not torch.equal(applied, left):  # something wrote to them after the optimisers
                rests = _norms(entry - left, sizes)
                counted = _norms(torch.where(entry == left, 0.0, entry - applied), sizes)
            for place, update, size, rest in zip(order, updates, counted, rests, strict=True):
                if readout.column(update):
                    share = readout.column(size)
                    kept[place] = readout.column(rest) / share if share else 0.0
        return kept


def _norms(rows: Tensor, sizes: Sequence[int]) -> list[list[float]]:
    """The norm of each parameter's part, in each step."""
    return [torch.linalg.vector_norm(part, dim=1).tolist() for part in rows.split(list(sizes), 1)]


class AppliedUpdates:
    """Reads the first numbers of each parameter, through aliases of their memory."""

    def __init__(self) -> None:
        self._addresses: list[int] = []
        self._plain: list[Tensor] = []
        self._some: list[list[Tensor]] = []  # of each device
        self._sizes: list[tuple[list[int], list[int]]] = []
        self._entry: list[Tensor] = []
        self._applied: list[Tensor] = []
        self._exit: list[Tensor] = []

    def begin(self, parameters: Sequence[Tensor]) -> bool:
        """Start a step; `.data` of a parameter may have been bound anew since the last one.

        Returns:
            Whether the numbers are known, on the CPU, to be what they were at the end of the last step.
        """
        self._applied, exit_ = [], self._exit
        if not self._addresses or [parameter.data_ptr() for parameter in self._plain] != self._addresses:
            self._alias(parameters)
            self._addresses = [parameter.data_ptr() for parameter in self._plain]
            exit_ = []
        self._entry = self._read()
        whole = len(self._plain) == len(parameters)
        return (
            bool(exit_)
            and whole
            and all(
                one.is_cpu and torch.equal(one, other) for one, other in zip(exit_, self._entry, strict=True)
            )
        )

    def _alias(self, parameters: Sequence[Tensor]) -> None:
        places: dict[torch.device, tuple[list[int], list[Tensor]]] = {}
        for position, parameter in enumerate(parameters):
            if _is_plain(parameter):
                order, some = places.setdefault(parameter.device, ([], []))
                order.append(position)
                some.append(real_view(parameter.detach()).view(-1)[:_SOME])
        self._plain = [parameters[position] for order, _ in places.values() for position in order]
        self._some = [some for _, some in places.values()]
        self._sizes = [(order, [len(part) for part in some]) for order, some in places.values()]

    def _read(self) -> list[Tensor]:
        return [torch.cat(some) for some in self._some]

    def after_optimizer(self) -> None:
        """An optimiser has stepped."""
        self._applied = self._read() if self._entry else []

    def finish(self, readout: Readout) -> UpdateKeys:
        """End of the step."""
        self._exit = self._read()
        if not self._applied:
            return UpdateKeys()
        read = zip(self._entry, self._applied, self._exit, strict=True)
        return UpdateKeys(
            self._sizes, [(readout.add(one), readout.add(two), readout.add(last)) for one, two, last in read]
        )

    def forget(self) -> None:
        """Release the memory of the parameters."""
        self._addresses, self._plain, self._some, self._sizes = [], [], [], []
        self._entry, self._applied, self._exit = [], [], []


def _is_plain(parameter: Tensor) -> bool:
    """Whether it is a block of memory with numbers."""
    plain = type(parameter) in (Tensor, torch.nn.Parameter) and not parameter.is_conj()
    return plain and parameter.numel() > 0 and parameter.is_contiguous()
