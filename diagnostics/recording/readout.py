"""Carries the numbers of steps to the host: none before they are read, and then all together.

Those of a step are joined to one tensor per device, which does not wait for the device; `fetch_all` transfers those of
several steps at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from diagnostics.records.columns import Agreement, Column

_CPU = torch.device("cpu")


class Readout:
    """Collects small tensors; `fetch` brings them to the CPU together; `self[key]` is then the value.

    Values come as float32, or as float64 where some tensor of the device is; integers are exact to 2^24.
    """

    def __init__(self) -> None:
        self._scalars: list[Tensor] = []
        self._vectors: list[Tensor] = []
        self._added: list[
            tuple[bool, int, int]
        ] = []  # of each key: whether scalars, first, one after the last
        self._places: list[tuple[int, int, int]] = []  # of each key: device, first value, one after the last
        self._flat: list[Tensor] = []
        self.size = 0
        """Numbers that were added, scalars left out."""

    def add(self, tensor: Tensor) -> int:
        """Add a tensor of any shape; it comes back flat. Returns its key."""
        self._vectors.append(tensor if tensor.dim() == 1 else tensor.reshape(-1))
        first, self.size = self.size, self.size + tensor.numel()
        self._added.append((False, first, self.size))
        return len(self._added) - 1

    def add_scalars(self, tensors: Sequence[Tensor]) -> int:
        """Add several scalars, which come back as one vector. Returns its key."""
        first = len(self._scalars)
        self._scalars += tensors
        self._added.append((True, first, len(self._scalars)))
        return len(self._added) - 1

    def pack(self) -> None:
        """Join what lies on one device to one tensor; nothing waits for it."""
        scalars, vectors = self._scalars, self._vectors
        self._scalars, self._vectors = [], []
        if len({tensor.device for tensor in scalars}.union(tensor.device for tensor in vectors)) < 2:
            count = len(scalars)
            self._places = [
                (0, first, after) if single else (0, first + count, after + count)
                for single, first, after in self._added
            ]
            self._flat = [_join([torch.stack(scalars), *vectors] if scalars else vectors)]
            return
        flats: dict[torch.device, list[Tensor]] = {}
        sizes: dict[torch.device, int] = {}
        waiting = iter(vectors)
        for single, first, after in self._added:
            parts = scalars[first:after] if single else [next(waiting)]
            device = next((part.device for part in parts if not part.is_cpu), _CPU)
            values = torch.stack([part.to(device) for part in parts]) if single and parts else None
            flat = parts[0] if values is None and parts else values
            before = sizes.setdefault(device, 0)
            sizes[device] += after - first
            flats.setdefault(device, [])
            if flat is not None:
                flats[device].append(flat)
            self._places.append((list(flats).index(device), before, sizes[device]))
        self._flat = [_join(parts) for parts in flats.values()]

    @property
    def layout(self) -> tuple[tuple[int, int, int], ...]:
        """Where the values of each key are."""
        return tuple(self._places)

    def fetch(self) -> None:
        """Transfer everything that was added."""
        self.pack()
        fetch_all([self])

    def __getitem__(self, key: int) -> Tensor:
        place, first, after = self._places[key]
        return self._flat[place][first:after]

    def numbers(self, key: int) -> list[float]:
        """The values of a key as Python floats."""
        return self[key].tolist()


def _join(parts: Sequence[Tensor]) -> Tensor:
    """One tensor that shares no memory with its parts; half precision and integers become single precision."""
    flat = torch.cat(tuple(parts)) if parts else torch.zeros(0)
    return flat if flat.dtype in (torch.float32, torch.float64) else flat.float()


class Readouts:
    """The readouts of several steps of one kind, whose numbers are columns.

    Args:
        readouts: One of each step, all of one layout and fetched.
        agreement: The steps that agree; None for a single step, whose numbers are floats.
    """

    def __init__(self, readouts: Sequence[Readout], agreement: Agreement | None) -> None:
        self._readouts = readouts
        self.agreement = agreement
        places = len(readouts[0]._flat)
        self._values = [torch.stack([each._flat[place] for each in readouts]) for place in range(places)]
        self.remembered: dict[Hashable, list[float]] = {}
        """What was computed of all steps and depends on those before them."""

    def numbers(self, key: int) -> list[Any]:
        """The values of a key."""
        columns = self.rows(key).t().tolist()
        if self.agreement is None:
            return [column[0] for column in columns]
        return [Column(values, self.agreement) for values in columns]

    def rows(self, key: int) -> Tensor:
        """(steps, values) of a key."""
        place, first, after = self._readouts[0].layout[key]
        return self._values[place][:, first:after]

    def __getitem__(self, key: int) -> Any:
        """The values of a key as a vector, or a column of vectors."""
        rows = self.rows(key)
        return rows[0] if self.agreement is None else Column(rows, self.agreement)

    def column(self, values: Sequence[Any]) -> Any:
        """A number of each step as they are recorded: a column, or the number of the single step."""
        return values[0] if self.agreement is None else Column(values, self.agreement)


@torch.no_grad()
def fetch_all(readouts: Iterable[Readout]) -> None:
    """Transfer what several readouts have packed, in one transfer per device."""
    waiting: dict[torch.device, list[tuple[Readout, int]]] = {}
    for readout in readouts:
        for place, flat in enumerate(readout._flat):
            if not flat.is_cpu:
                waiting.setdefault(flat.device, []).append((readout, place))
    for found in waiting.values():
        flats = [readout._flat[place] for readout, place in found]
        together = (torch.cat(flats) if len(flats) > 1 else flats[0]).cpu()
        for (readout, place), part in zip(found, together.split([len(flat) for flat in flats]), strict=True):
            readout._flat[place] = part
