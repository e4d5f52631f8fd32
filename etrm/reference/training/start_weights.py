"""The weights with which training starts: constants, or truncated normal numbers of a known standard deviation.

Which numbers are drawn is free; their distribution is not, because the sizes of all states and gradients follow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from etrm.config import ModelConfig
from etrm.reference.departure import Departure, PipelineStage

SIGMAS = 6.0
"""Largest departure of a tensor's mean and standard deviation, in standard errors: by chance once in 1e8 at most."""
LARGEST = 2.3
"""Largest weight, in standard deviations: a normal distribution that is cut at two of its own reaches 2.28."""


def compare_start_weights(
    weights: Mapping[str, Tensor], model: ModelConfig, loaded: bool = False
) -> list[Departure]:
    """Compare the weights before the first step with the distributions that the model starts from.

    Args:
        weights: the tensors of the model by name; those of an unknown kind are left out.
        model: the settings of the model.
        loaded: whether the core comes from a checkpoint, so that it is left out.
    """
    found = []
    for name, value in weights.items():
        if loaded and name.startswith("core."):
            continue
        start = _find_start(name, value, model)
        if start is None:
            continue
        size, limit = _measure(value.double(), *start)
        if not size <= limit:
            stage = PipelineStage.LOADING if name.startswith("core.") else PipelineStage.CONTEXT
            found.append(Departure(stage, name, size, limit, "before the first step"))
    return found


def _find_start(name: str, value: Tensor, model: ModelConfig) -> tuple[float, float] | None:
    """Return the mean and the standard deviation of a tensor; None of one that no rule covers."""
    last = name.rpartition(".")[2]
    if name == "core.q_head.bias":
        return -5.0, 0.0
    if name in ("core.q_head.weight", "puzzle_table.weights") or last == "bias" or "logvar_proj" in name:
        return 0.0, 0.0
    if last in ("gamma_1", "gamma_2"):
        return model.encoder.layer_scale, 0.0
    if last in ("query_tokens", "pool_query", "cls_token"):
        return 0.0, 0.02
    if last.endswith("_init"):
        return 0.0, 1.0
    if last in ("embedding_weight", "weight"):
        return 0.0, 1 / math.sqrt(value.shape[-1])
    return None


def _measure(value: Tensor, mean: float, deviation: float) -> tuple[float, float]:
    """Return the difference of a tensor from a distribution, relative to its size, and the limit by chance."""
    if not deviation:
        return float((value - mean).abs().max()), 1e-6
    scaled = value / deviation
    if float(scaled.abs().max()) > LARGEST:
        return float(scaled.abs().max()), LARGEST
    root = math.sqrt(value.numel())
    spread = abs(float(scaled.square().mean().sqrt()) - 1)
    return max(spread, abs(float(scaled.mean())) / math.sqrt(2)), SIGMAS / (math.sqrt(2) * root)
