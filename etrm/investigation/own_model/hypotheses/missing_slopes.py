"""Whether the loss depends on weights whose gradient is exactly zero, as where a part of an output is detached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.testing.trials import untouched
from etrm.device import to_device
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import CheckedRow
from etrm.investigation.own_model.hypotheses.loss_slopes import (
    NOISE,
    Gradients,
    compute_gradient,
    is_within,
)
from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.own_model.model_under_test import RowBatch
from etrm.investigation.own_model.training_trial import TrainingTrial

STRIDES = (0.01, 0.05)
"""Lengths of the step, as shares of the root mean square of a tensor. A slope is the same at both."""
DIRECTIONS = 2
"""Directions of random signs, of which one can be at a right angle to the slope."""
SMALLEST = 0.01
"""Smallest gradient that counts as missing, as a share of the gradient of all weights."""
ALIKE = 1.5
"""Largest ratio of two slopes that count as the same, so that a kink is none: its two sides differ."""

MISSING = Metric(
    "own.missing-gradient", "gradient that weights with a gradient of zero should get", Direction.LOWER
)


@dataclass(frozen=True)
class _Still:
    """The elements of a tensor whose gradient is zero."""

    name: str
    weight: Tensor
    mask: Tensor


def check_missing_gradients(factory: ModelFactory, seed: int) -> Iterator[CheckedRow]:
    """Move the weights that get a gradient of zero, and see whether the loss has a slope along them.

    Weights behind a closed gate, a dead unit or a pruned connection have none.
    """
    trial = TrainingTrial(factory, seed)
    batch = trial.batch(0)
    gradients = compute_gradient(trial, 0, batch)
    still = _list_still(trial, gradients)
    size = sum(float(g.double().square().sum()) for g in gradients.values()) ** 0.5
    if not size or size != size:
        return  # no gradient, or no finite loss: other rows show it
    missing = {one.name: _estimate_gradient(trial, batch, one) / size for one in still}
    names = [name for name, share in missing.items() if share >= SMALLEST]
    row = MISSING.row(
        max(missing.values(), default=0.0),
        threshold=f"< {SMALLEST:g} of the gradient of all",
        passed=not names,
        n=f"{sum(int(one.mask.sum()) for one in still)} weights, the first step",
        note=", ".join(names[:5]),
    )
    words = f"the loss depends on weights of {len(names)} tensors whose gradient is zero, as if a part was detached"
    yield CheckedRow(row, f"{words} (first: {names[0]})" if names else "")


def _list_still(trial: TrainingTrial, gradients: Gradients) -> list[_Still]:
    """The elements without gradient of the tensors that get one, except of parts that are approximate on purpose."""
    return [
        _Still(name, weight, mask)
        for name, weight in trial.model.named_parameters()
        if id(weight) in gradients
        and not any(is_within(name, part) for part in trial.subject.approximate)
        and bool((mask := gradients[id(weight)] == 0).any())
    ]


def _estimate_gradient(trial: TrainingTrial, batch: RowBatch, still: _Still) -> float:
    """The norm of the gradient of the elements, from the slopes along random directions; 0 where there is no slope."""
    return (
        max(_measure_slope(trial, batch, still, draw) for draw in range(DIRECTIONS))
        * int(still.mask.sum()) ** 0.5
    )


def _measure_slope(trial: TrainingTrial, batch: RowBatch, still: _Still, draw: int) -> float:
    """The slope of the loss per unit of length; 0 unless it is the same at both strides, to both sides."""
    weight = still.weight
    signs = torch.randint(2, weight.shape, generator=torch.Generator().manual_seed(draw)) * 2 - 1
    scale = float(weight.detach().square().mean().sqrt()) or 1.0
    step = to_device(signs, weight.device) * still.mask * scale
    length = float(step.double().square().sum()) ** 0.5
    middle, slopes = _move(trial, batch, weight, step, 0.0), []
    for stride in STRIDES:
        ahead, behind = (_move(trial, batch, weight, step, sign * stride) for sign in (1, -1))
        if not abs(ahead - behind) > NOISE * max(abs(ahead), abs(behind)):
            return 0.0
        slopes += [(ahead - middle) / (stride * length), (middle - behind) / (stride * length)]
    sizes = [abs(slope) for slope in slopes]
    same_sign = len({slope > 0 for slope in slopes}) == 1
    return sum(sizes) / len(sizes) if same_sign and max(sizes) <= ALIKE * min(sizes) else 0.0


def _move(trial: TrainingTrial, batch: RowBatch, weight: Tensor, step: Tensor, by: float) -> float:
    """The loss with a moved weight."""
    with untouched(trial.model), torch.no_grad():
        weight.add_(step.to(weight.dtype), alpha=by)
        return float(trial.loss(0, batch).detach())
