"""The learning rates of a whole run: each is a function of the number of its step, and no training is needed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from etrm.config import TrainConfig
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.training.optimisation import rate_factor, rate_of

LIMIT = 1e-5
"""Largest relative difference of a rate."""


def compare_rates(steps: Iterable[tuple[int, Mapping[str, float]]], train: TrainConfig) -> list[Departure]:
    """Compare learning rates with the settings; a departure for the first that is wrong.

    Args:
        steps: 0-based steps, each with its rates by the name of a parameter.
        train: the settings as they were requested.
    """
    for step, rates in steps:
        factor = rate_factor(step, train)
        for name, rate in rates.items():
            right = rate_of(name, train) * factor
            if not math.isclose(rate, right, rel_tol=LIMIT, abs_tol=1e-30):
                size = abs(rate - right) / right if right else math.inf
                where = f"{rate:.3g} at step {step + 1}, not {right:.3g}"
                return [Departure(PipelineStage.SCHEDULE, f"rate of {name}", size, LIMIT, where)]
    return []
