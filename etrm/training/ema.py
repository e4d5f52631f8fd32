"""Exponential moving average of the weights, with bias correction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etrm.errors import ArgumentError


class Ema:
    """Averages parameters and float buffers in float32.

    The accumulator starts at zero and is divided by 1 - decay^t, so that the average of a constant
    is that constant from the first update on.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.sums: dict[str, Tensor] = {
            name: torch.zeros_like(tensor, dtype=torch.float32) for name, tensor in _floats(model)
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the current weights to the average."""
        self.updates += 1
        sums = list(self.sums.values())
        torch._foreach_lerp_(sums, [tensor.detach().float() for _, tensor in _floats(model)], 1 - self.decay)

    def average(self) -> dict[str, Tensor]:
        """Return the bias-corrected average by name.

        Raises:
            ArgumentError: nothing was averaged yet.
        """
        if self.updates == 0:
            raise ArgumentError("train.empty-average", "an average of no weights: update the EMA first")
        correction = 1 - self.decay**self.updates
        return {name: total / correction for name, total in self.sums.items()}

    def load(self, sums: dict[str, Tensor], updates: int) -> None:
        """Continue from saved accumulators."""
        for name, total in self.sums.items():
            total.copy_(sums[name])
        self.updates = updates


def _floats(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in model.state_dict().items() if tensor.is_floating_point()]
