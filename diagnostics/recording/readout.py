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
        self._parts: list[Tensor] = []
        self._values: list[Tensor] = []

    def add(self, tensor: Tensor) -> int:
        """Add a tensor of any shape; it comes back flat. Returns its key."""
        self._parts.append(tensor.detach().reshape(-1))
        return len(self._parts) - 1

    def add_scalars(self, tensors: Sequence[Tensor]) -> int:
        """Add several scalars, which come back as one vector. Returns its key."""
        if not tensors:
            return self.add(torch.zeros(0))
        device = tensors[0].device
        if any(tensor.device != device for tensor in tensors):
            tensors = [tensor.to(device) for tensor in tensors]
        return self.add(torch.stack(tuple(tensors)))

    def fetch(self) -> None:
        """Transfer everything that was added."""
        devices: dict[torch.device, list[int]] = {}
        for key, part in enumerate(self._parts):
            devices.setdefault(part.device, []).append(key)
        values: dict[int, Tensor] = {}
        for device, keys in devices.items():
            anchor = torch.zeros(1, device=device)  # lifts half precision and integers to float32
            flat = torch.cat([anchor, *(self._parts[key] for key in keys)]).cpu()
            sizes = [1, *(self._parts[key].numel() for key in keys)]
            values.update(zip(keys, flat.split(sizes)[1:], strict=True))
        self._values = [values[key] for key in range(len(self._parts))]

    def __getitem__(self, key: int) -> Tensor:
        return self._values[key]

    def numbers(self, key: int) -> list[float]:
        """The values of a key as Python floats."""
        return [float(value) for value in self._values[key].tolist()]
