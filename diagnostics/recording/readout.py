"""Carries the numbers of steps to the host: none before they are read, and then all together.

A scalar on the CPU is read where it was computed, while it is in the caches. What lies on an accelerator is joined to
one tensor, which does not wait for the device; `fetch_all` transfers that of several steps at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from diagnostics.recording.tensors import Scalars
from diagnostics.records.columns import Agreement, Column

_CPU = torch.device("cpu")
_HOST = -1
"""Place of scalars that are on the host already."""


class Readout:
    """Collects small tensors; `fetch` brings them to the CPU together; `self[key]` is then the value.

    Values come as float32, or as float64 where some tensor of the device is; integers are exact to 2^24.
    """

    def __init__(self) -> None:
        self.scalars: list[float] = []
        """Those that are on the host already."""
        self._parts: dict[tuple[torch.device, bool], list[Tensor]] = {}  # device, whether they are scalars
        self._order: dict[tuple[torch.device, bool], int] = {}
        self._sizes: list[int] = []
        self._places: list[tuple[int, int, int]] = []  # of each key: flat tensor, first value, one after it
        self._known: dict[int, tuple[Scalars, int]] = {}
        self.flat: list[Tensor] = []
        """What was packed."""
        self.size = 0
        """Numbers that were added, scalars left out."""

    def add(self, tensor: Tensor) -> int:
        """Add a tensor of any shape; it comes back flat. Returns its key."""
        flat = tensor if tensor.dim() == 1 else tensor.reshape(-1)
        self.size += flat.numel()
        return self._add((_CPU if flat.is_cpu else flat.device, False), (flat,), flat.numel())

    def add_scalars(self, scalars: Scalars) -> int:
        """Add several scalars, which come back as one vector. Returns its key, the same for the same list."""
        known = self._known.get(id(scalars))
        if known is not None:
            return known[1]
        device = next((each.device for each in scalars if isinstance(each, Tensor) and not each.is_cpu), None)
        if device is None:
            first = len(self.scalars)
            self.scalars += [float(each) for each in scalars]
            self._places.append((_HOST, first, len(self.scalars)))
            key = len(self._places) - 1
        else:
            parts = [torch.as_tensor(each, device=device) for each in scalars]
            key = self._add((device, True), parts, len(parts))
        self._known[id(scalars)] = (scalars, key)  # held, so that no id comes twice
        return key

    def _add(self, kind: tuple[torch.device, bool], parts: Sequence[Tensor], count: int) -> int:
        place = self._order.get(kind)
        if place is None:
            place = self._order[kind] = len(self._order)
            self._parts[kind] = []
            self._sizes.append(0)
        first = self._sizes[place]
        self._sizes[place] = first + count
        self._parts[kind] += parts
        self._places.append((place, first, first + count))
        return len(self._places) - 1

    def pack(self) -> None:
        """Join what lies on one device; nothing waits for it."""
        self.flat = [_join(parts, scalars) for (_, scalars), parts in self._parts.items()]
        self._parts, self._known = {}, {}

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
        return torch.tensor(self.scalars[first:after]) if place == _HOST else self.flat[place][first:after]

    def numbers(self, key: int) -> list[float]:
        """The values of a key as Python floats."""
        place, first, after = self._places[key]
        return self.scalars[first:after] if place == _HOST else self.flat[place][first:after].tolist()


def _join(parts: Sequence[Tensor], scalars: bool) -> Tensor:
    """One tensor that shares no memory with its parts; half precision and integers become single precision."""
    flat = torch.stack(tuple(parts)) if scalars else torch.cat(tuple(parts))
    return flat if flat.dtype in (torch.float32, torch.float64) else flat.float()


class Readouts:
    """The readouts of several steps of one kind, whose numbers are columns.

    Args:
        readouts: One of each step, all of one layout and fetched.
        agreement: The steps that agree; None for a single step, whose numbers are floats.
    """

    def __init__(self, readouts: Sequence[Readout], agreement: Agreement | None) -> None:
        self._layout = readouts[0].layout
        self.agreement = agreement
        self._scalars = [each.scalars for each in readouts]
        places = len(readouts[0].flat)
        self._values = [torch.stack([each.flat[place] for each in readouts]) for place in range(places)]
        self.remembered: dict[Hashable, list[float]] = {}
        """What was computed of all steps and depends on those before them."""

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self._scalars)

    def numbers(self, key: int) -> list[Any]:
        """The values of a key."""
        place, first, after = self._layout[key]
        if place == _HOST:
            rows = [scalars[first:after] for scalars in self._scalars]
        else:
            rows = self._values[place][:, first:after].tolist()
        if self.agreement is None:
            return rows[0]
        return [Column(values, self.agreement) for values in zip(*rows, strict=True)]

    def rows(self, key: int) -> Tensor:
        """(steps, values) of a key."""
        place, first, after = self._layout[key]
        if place == _HOST:
            return torch.tensor([scalars[first:after] for scalars in self._scalars])
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
        for place, flat in enumerate(readout.flat):
            if not flat.is_cpu:
                waiting.setdefault(flat.device, []).append((readout, place))
    for found in waiting.values():
        flats = [readout.flat[place] for readout, place in found]
        together = (torch.cat(flats) if len(flats) > 1 else flats[0]).cpu()
        for (readout, place), part in zip(found, together.split([len(flat) for flat in flats]), strict=True):
            readout.flat[place] = part
