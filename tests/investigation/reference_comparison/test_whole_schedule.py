"""The rates of a run: right of every optimiser, and wrong only after the steps that are compared."""

from __future__ import annotations

from typing import Any

import pytest

from etrm.config import Config, TrainConfig, load, with_settings
from etrm.investigation.reference_comparison import whole_schedule
from etrm.investigation.reference_comparison.whole_schedule import check_schedule
from etrm.reference.departure import PipelineStage
from etrm.training.optim import schedule
from etrm.training.trainer import Trainer


def config_of(**changes: Any) -> Config:
    small = with_settings(load("smoke"), data={"max_tasks": 4}, train={"lr_min_ratio": 0.1, "threads": 1})
    return with_settings(small, monitor={"enabled": False}, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"optimizer": "adam_atan2", "encoder_lr_scale": 0.3, "steps": 2500}},
        {"train": {"warmup_steps": 0}},
        {"model": {"variant": "trm"}, "data": {"augmentations": 2}},
    ],
)
def test_healthy_rates_depart_nowhere_and_stay_what_they_are(changes: dict[str, Any]) -> None:
    config = config_of(**changes)
    trainer = Trainer(config)
    trainer.advance()
    before = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    assert check_schedule(trainer, config.train) == []
    assert before == [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]


def test_a_rate_that_is_wrong_at_the_end_alone_is_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(step: int, train: TrainConfig) -> float:
        return schedule(step, train) * (2 if step >= train.steps - 2 else 1)

    monkeypatch.setattr(whole_schedule, "schedule", doubled)
    config = config_of(train={"steps": 60})
    [found] = check_schedule(Trainer(config), config.train)
    assert (found.stage, found.size) == (PipelineStage.SCHEDULE, pytest.approx(1.0))
    assert "59" in found.where


def test_a_fault_of_the_settings_is_compared_with_those_without_it() -> None:
    config = config_of()
    [found] = check_schedule(Trainer(with_settings(config, faults=("warmup-too-long",))), config.train)
    assert found.stage is PipelineStage.SCHEDULE
