"""Parameters that are zero in a new model, and hide what is computed with them."""

from __future__ import annotations

import torch

from etrm.device import to_device
from etrm.training.trainer import Trainer

FILLED = 0.1
"""Standard deviation of parameters that were zero: of the size of the others."""


@torch.no_grad()
def fill_zeros(trainer: Trainer) -> None:
    """Give parameters that are zero in a new model, or were a few steps ago, random values.

    What they do has no effect at first.
    """
    random = torch.Generator().manual_seed(trainer.config.train.seed)
    for parameter in trainer.model.parameters():
        if float(parameter.square().mean().sqrt()) < FILLED / 10:
            drawn = torch.randn(parameter.shape, generator=random)
            parameter.copy_(FILLED * to_device(drawn, parameter.device))
