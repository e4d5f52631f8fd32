"""The gradient that came to the outputs of one call, from the whole loss or from one of its named terms."""

from __future__ import annotations

import torch
from torch import Tensor

from diagnostics.recording.readout import Readout

WHOLE_LOSS = ""
"""Key of what the backward pass of the training step brought; the others are names of terms."""


class Arrivals:
    """Largest |gradient| per row, over several outputs and several backward passes."""

    def __init__(self) -> None:
        self.reached = False
        self.row_gradients: Tensor | None = None
        self.unmatched: Tensor | None = None  # largest |gradient| at outputs without row per sample
        self.keys: tuple[int, int] = (-1, -1)

    @torch.no_grad()
    def add(self, gradient: Tensor, rows: int | None) -> None:
        """Note the gradient of an output.

        Args:
            rows: Number of leading rows that belong to samples, None where they are not known.
        """
        self.reached = True
        if gradient.is_meta:
            return
        sizes = gradient.detach().abs()
        if rows is None:
            self.unmatched = _larger(self.unmatched, sizes.amax())
        else:
            self.row_gradients = _larger(self.row_gradients, sizes.reshape(rows, -1).amax(1))

    def close(self, readout: Readout) -> None:
        """Add what has to be read on the CPU."""
        empty = torch.zeros(0)
        first, second = (
            readout.add(empty if part is None else part) for part in (self.row_gradients, self.unmatched)
        )
        self.keys = (first, second)


def _larger(before: Tensor | None, now: Tensor) -> Tensor:
    return now if before is None else torch.maximum(before, now)
