"""Carries the numbers of steps to the host: none before they are read, and then all together.

Numbers on the CPU stay in the tensors that hold them. Those of an accelerator are joined to one tensor per step, which
does not wait for the device; `fetch_all` transfers those of several steps at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from diagnostics.records.columns import Agreement, Column


class Readout:
    """Collects small tensors; `fetch` brings them to the CPU together; `self[key]` is then the value.

    Values come as float32, or as float64 where some tensor of the device is; integers are exact to 2^24.
    """

    def __init__(self) -> None:
        self._parts: list[Sequence[Tensor]] = []
        self._places: dict[int, tuple[int, int, int]] = {}  # key -> device, first value, one after the last
        self._flat: list[Tensor] = []
        self.size = 0
        """Numbers that were added, scalars left out."""

    def add(self, tensor: Tensor) -> int:
        """Add a tensor of any shape; it comes back flat. Returns its key."""
        self._parts.append((tensor,))
        self.size += tensor.numel()
        return len(self._parts) - 1

    def add_scalars(self, tensors: Sequence[Tensor]) -> int:
        """Add several scalars, which come back as one vector. Returns its key."""
        self._parts.append(tensors)
        return len(self._parts) - 1

    @torch.no_grad()
    def pack(self) -> None:
        """Join what lies on an accelerator to one tensor per device; nothing waits for it."""
        devices: dict[torch.device, int] = {}
        flats: list[list[Tensor]] = []
        sizes: list[int] = []
        for key, parts in enumerate(self._parts):
            device = next((part.device for part in parts if not part.is_cpu), None)
            if device is None:
                continue
            place = devices.setdefault(device, len(flats))
            if place == len(flats):
                flats.append([torch.zeros(1, device=device)])  # lifts half precision and integers to float32
                sizes.append(1)
            first = sizes[place]
            if len(parts) > 1:  # scalars: one operation for all of them
                apart = any(part.device != device for part in parts)
                flat = torch.stack([part.to(device) for part in parts] if apart else tuple(parts))
                flats[place].append(flat)
                sizes[place] += len(parts)
            else:
                flats[place].append(parts[0].reshape(-1))
                sizes[place] += parts[0].numel()
            self._places[key] = (place, first, sizes[place])
            self._parts[key] = ()
        self._flat = [torch.cat(flat) for flat in flats]

    def layout(self) -> tuple[int, ...]:
        """The number of values of each key."""
        return tuple(
            [parts[0].numel() if len(parts) == 1 else len(parts) for parts in self._parts]
            if not self._places
            else [after - first for _, first, after in self._places.values()]
        )

    def fetch(self) -> None:
        """Transfer everything that was added."""
        self.pack()
        fetch_all([self])

    def __getitem__(self, key: int) -> Tensor:
        if key in self._places:
            place, first, after = self._places[key]
            return self._flat[place][first:after]
        parts = self._parts[key]
        flat = (
            torch.stack(tuple(parts)) if len(parts) > 1 else parts[0].reshape(-1) if parts else torch.zeros(0)
        )
        return flat if flat.dtype in (torch.float32, torch.float64) else flat.float()

    def numbers(self, key: int) -> list[float]:
        """The values of a key as Python floats."""
        if key in self._places:
            return self[key].tolist()
        parts = self._parts[key]
        if len(parts) == 1 and parts[0].dim():
            return [float(value) for value in parts[0].reshape(-1).tolist()]
        return [float(part.item()) for part in parts]


class Readouts:
    """The readouts of several steps of one kind, whose numbers are columns.

    Args:
        readouts: One of each step, all of one layout and fetched.
        agreement: The steps that agree; None for a single step, whose numbers are floats.
    """

    def __init__(self, readouts: Sequence[Readout], agreement: Agreement | None) -> None:
        self._readouts = readouts
        self.agreement = agreement
        self._columns: dict[int, list[list[float]]] = {}
        self.remembered: dict[Hashable, list[float]] = {}
        """What was computed of all steps and depends on those before them."""

    def numbers(self, key: int) -> list[Any]:
        """The values of a key."""
        if self.agreement is None:
            return self._readouts[0].numbers(key)
        if key not in self._columns:
            self._columns[key] = self._read(key)
        return [Column(values, self.agreement) for values in self._columns[key]]

    def _read(self, key: int) -> list[list[float]]:
        parts = [readout._parts[key] for readout in self._readouts]
        scalars = [part for each in parts for part in each]
        alike = key not in self._readouts[0]._places and len({part.dtype for part in scalars}) == 1
        if alike and all(part.dim() == 0 for part in scalars):
            return torch.stack(scalars).view(len(parts), -1).t().tolist() if scalars else []
        return [list(values) for values in zip(*(each.numbers(key) for each in self._readouts), strict=True)]

    def rows(self, key: int) -> Tensor:
        """(steps, values) of a key."""
        return torch.stack([readout[key] for readout in self._readouts])

    def __getitem__(self, key: int) -> Any:
        """The values of a key as a vector, or a column of vectors."""
        if self.agreement is None:
            return self._readouts[0][key]
        return Column([readout[key] for readout in self._readouts], self.agreement)

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
