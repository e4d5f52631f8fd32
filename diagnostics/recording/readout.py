"""Carries the numbers of steps to the host: none before they are read, and then all together.

Numbers on the CPU stay in the tensors that hold them. Those of an accelerator are joined to one tensor per step, which
does not wait for the device; `fetch_all` transfers those of several steps at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


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
