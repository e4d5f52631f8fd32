"""Carries all numbers of a step to the CPU in one transfer per device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Readout:
    """Collects small tensors; `fetch` brings them to the CPU together; `self[key]` is then the value.

    Values come as float32, or as float64 where some tensor of the device is; integers are exact to 2^24.
    """

    def __init__(self) -> None:
        self._parts: list[Sequence[Tensor]] = []
        self._places: list[tuple[int, int, int]] = []  # of each key: device, first value, one after the last
        self._flat: list[Tensor] = []
        self._numbers: list[list[float]] = []

    def add(self, tensor: Tensor) -> int:
        """Add a tensor of any shape; it comes back flat. Returns its key."""
        self._parts.append((tensor,))
        return len(self._parts) - 1

    def add_scalars(self, tensors: Sequence[Tensor]) -> int:
        """Add several scalars, which come back as one vector. Returns its key."""
        self._parts.append(tensors)
        return len(self._parts) - 1

    @torch.no_grad()
    def fetch(self) -> None:
        """Transfer everything that was added."""
        devices: dict[torch.device, int] = {}
        flats: list[list[Tensor]] = []
        sizes: list[int] = []
        self._places = []
        for parts in self._parts:
            device = parts[0].device if parts else _CPU
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
            elif parts:
                flats[place].append(parts[0].reshape(-1))
                sizes[place] += parts[0].numel()
            self._places.append((place, first, sizes[place]))
        self._flat = [torch.cat(flat).cpu() for flat in flats]
        self._numbers = [[] for _ in flats]

    def __getitem__(self, key: int) -> Tensor:
        place, first, after = self._places[key]
        return self._flat[place][first:after]

    def numbers(self, key: int) -> list[float]:
        """The values of a key as Python floats."""
        place, first, after = self._places[key]
        if not self._numbers[place]:
            self._numbers[place] = self._flat[place].tolist()
        return self._numbers[place][first:after]


_CPU = torch.device("cpu")
