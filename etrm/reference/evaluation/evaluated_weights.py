"""The weights that an evaluation uses: the raw ones of a checkpoint, or their average from its accumulators."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from etrm.reference.departure import Departure, PipelineStage

SINGLE = 1e-6  # of a quotient of float32 numbers, relative


def compare_weights(
    evaluated: Mapping[str, Tensor],
    raw: Mapping[str, Tensor],
    sums: Mapping[str, Tensor],
    *,
    updates: int,
    decay: float,
    averaged: bool,
) -> list[Departure]:
    """Compare the weights that an evaluation uses with those of the checkpoint.

    Args:
        evaluated: the tensors of the evaluated model, by name.
        raw: the raw tensors of the checkpoint.
        sums: the accumulators of the average, of all floating-point tensors.
        updates: the number of updates of the accumulators.
        decay: the decay of the average per step.
        averaged: whether the bias-corrected average was requested, or the raw weights.
    """
    found = []
    for name, kept in raw.items():
        wanted = kept
        if averaged and updates and name in sums:
            wanted = sums[name].double() / (1 - decay**updates)
        size = _measure_difference(evaluated.get(name), wanted)
        if not size <= SINGLE:
            found.append(Departure(PipelineStage.WEIGHTS, name, size, SINGLE))
    return found


def _measure_difference(found: Tensor | None, wanted: Tensor) -> float:
    if found is None or found.shape != wanted.shape:
        return math.inf
    gap = torch.linalg.vector_norm(found.double() - wanted.double())
    norm = torch.linalg.vector_norm(wanted.double())
    return float(gap / norm) if norm > 0 else float(gap)
