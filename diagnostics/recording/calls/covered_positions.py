"""Which positions of the batch ever had gradient: a loss that drops part of the batch never reaches some."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from diagnostics.records import ModuleRecord


class CoveredPositions:
    """Positions that some watched module had gradient for, over all recorded steps."""

    def __init__(self) -> None:
        self._covered = torch.zeros(0, dtype=torch.bool)
        self._full = False

    def full_for(self, samples: int) -> bool:
        """Whether all positions of so many samples had gradient in earlier steps."""
        return self._full and samples <= len(self._covered)

    def never(self, modules: Iterable[ModuleRecord], samples: int) -> float:
        """Add a step; the share of its positions that had no gradient in any step so far."""
        if self.full_for(samples):
            return 0.0
        if samples > len(self._covered):
            grown = torch.zeros(samples, dtype=torch.bool)
            grown[: len(self._covered)] = self._covered
            self._covered = grown
        for module in modules:
            for call in module.calls:
                if isinstance(call.samples, Tensor) and isinstance(call.row_gradients, Tensor):
                    self._covered[call.samples[call.row_gradients != 0].long()] = True
        self._full = bool(self._covered.all())
        return 0.0 if self._full else 1.0 - float(self._covered[:samples].float().mean())
