"""The overfit gate of seed 002, for real: minutes of training, run by `make test-slow`.

Of the standard encoder; `make gates` runs every kind (docs/results/learning.md).
"""

from __future__ import annotations

import pytest

from etrm.config import load
from etrm.training.scoring.overfit_gate import gate
from etrm.training.trainer import Trainer


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ten_tasks_are_fitted_in_500_steps_without_collapse(seed: int) -> None:
    trainer = Trainer(load("overfit", overrides=(f"train.seed={seed}", "train.threads=1")))
    metrics = [trainer.train_step() for _ in range(trainer.config.train.steps)]
    found = gate([step["accuracy_all"] for step in metrics])
    assert found.passed, found
    assert {step["encoder.coverage"] for step in metrics} == {1.0}
