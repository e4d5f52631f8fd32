"""Learning rates of all steps: written-out ones, and a wrong one at any of them."""

from __future__ import annotations

import pytest

from etrm.config import TrainConfig
from etrm.reference.departure import PipelineStage
from etrm.reference.training.schedule import compare_rates

TRAIN = TrainConfig(steps=6, warmup_steps=2, lr=0.4, lr_min_ratio=0.5, encoder_lr_scale=2.0)
FACTORS = (0.5, 1.0, 1.0, 0.9267766952966369, 0.75, 0.5732233047033631)
"""Half, the whole, then the mean of one and the floor with the cosine of 0, 45, 90 and 135 degrees."""
RATES = [(step, {"core.a": 0.4 * factor, "encoder.b": 0.8 * factor}) for step, factor in enumerate(FACTORS)]


def test_the_rates_of_the_settings_depart_nowhere() -> None:
    assert compare_rates(RATES, TRAIN) == []


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("name", ["core.a", "encoder.b"])
def test_a_wrong_rate_is_the_schedule_at_any_step(step: int, name: str) -> None:
    rates = [(at, dict(values)) for at, values in RATES]
    rates[step][1][name] *= 1.1
    [found] = compare_rates(rates, TRAIN)
    assert (found.stage, found.tensor, found.size) == (
        PipelineStage.SCHEDULE,
        f"rate of {name}",
        pytest.approx(0.1),
    )


def test_a_rate_of_zero_is_compared_too() -> None:
    ends = TrainConfig(steps=2, warmup_steps=0, lr=0.4, lr_min_ratio=0.0)
    assert compare_rates([(2, {"core.a": 0.0})], ends) == []
    assert len(compare_rates([(2, {"core.a": 0.1})], ends)) == 1
