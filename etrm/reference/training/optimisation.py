"""Rates, clipping, updates and averages, written plainly for one tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from etrm.config import TrainConfig

ADAMW_EPSILON = 1e-8  # torch's default


@dataclass(frozen=True)
class Updated:
    """A weight after an update, with the optimiser's running means; None where it keeps none."""

    weight: Tensor
    mean: Tensor | None = None
    square: Tensor | None = None


def rate_factor(step: int, train: TrainConfig) -> float:
    """The factor on every learning rate at the 0-based ``step``: a linear rise, then half a cosine to the floor."""
    if step < train.warmup_steps:
        return (step + 1) / train.warmup_steps
    share = min(1.0, (step - train.warmup_steps) / max(1, train.steps - train.warmup_steps))
    return train.lr_min_ratio + (1 - train.lr_min_ratio) * (1 + math.cos(math.pi * share)) / 2


def rate_of(name: str, train: TrainConfig) -> float:
    """The learning rate of a parameter before the factor, by its name."""
    if name.startswith("puzzle_table."):
        return train.puzzle_lr
    return train.lr * (train.encoder_lr_scale if name.startswith("encoder.") else 1.0)


FROZEN_PARTS = "core.", "encoder."
"""The prefixes of the parameters of the parts that a stage of training may freeze."""


def frozen_part(step: int, train: TrainConfig) -> str | None:
    """The prefix of the parameters that the 0-based ``step`` does not train, None where it trains all."""
    return next((part for part in FROZEN_PARTS if step < frozen_steps(part, train)), None)


def frozen_steps(name: str, train: TrainConfig) -> int:
    """The number of first steps that do not train a parameter, by its name."""
    decoder, encoder = FROZEN_PARTS
    if name.startswith(decoder):
        return train.freeze_decoder_steps
    return train.freeze_encoder_steps if name.startswith(encoder) else 0


def clipped(gradients: Mapping[str, Tensor], train: TrainConfig) -> dict[str, Tensor]:
    """Dense gradients scaled so that their joint norm is at most the limit; sparse ones stay as they are.

    torch adds 1e-6 to the norm before it divides.
    """
    if train.clip_norm is None:
        return dict(gradients)
    dense = [name for name in gradients if not name.startswith("puzzle_table.")]
    squares = [gradients[name].double().square().sum() for name in dense]
    length = math.sqrt(float(torch.stack(squares).sum())) if squares else 0.0
    factor = min(1.0, train.clip_norm / (length + 1e-6))
    return {name: value * factor if name in dense else value for name, value in gradients.items()}


def update(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor | None,
    square: Tensor | None,
    count: int,
    rate: float,
    train: TrainConfig,
    rows: Tensor | None = None,
) -> Updated:
    """One update of one parameter.

    Args:
        weight, gradient: the tensors, the gradient dense.
        mean, square: the running means before it, None before the first.
        count: the number of updates of this parameter, this one included.
        rate: the learning rate.
        train: the settings.
        rows: the rows of the puzzle table that the batch uses, None for another parameter.
    """
    if rows is not None:
        touched = torch.zeros(len(weight), 1, dtype=torch.bool, device=weight.device)
        touched[rows] = True
        moved = weight * (1 - rate * train.puzzle_weight_decay) - rate * gradient.sign()
        return Updated(torch.where(touched, moved, weight))
    mean = torch.zeros_like(weight) if mean is None else mean
    square = torch.zeros_like(weight) if square is None else square
    mean = train.beta1 * mean + (1 - train.beta1) * gradient
    square = train.beta2 * square + (1 - train.beta2) * gradient * gradient
    first, second = 1 - train.beta1**count, 1 - train.beta2**count
    decayed = weight * (1 - rate * train.weight_decay)
    if train.optimizer == "adamw":  # Loshchilov and Hutter, 2019
        return Updated(
            decayed - rate * (mean / first) / ((square / second).sqrt() + ADAMW_EPSILON), mean, square
        )
    # Everett et al., 2024: no epsilon, because atan2(0, 0) is 0
    return Updated(decayed - rate / first * torch.atan2(mean, (square / second).sqrt()), mean, square)


def averaged(total: Tensor, weight: Tensor, decay: float) -> Tensor:
    """The accumulator of the EMA, which starts at zero, after one more weight."""
    return decay * total + (1 - decay) * weight.float()
