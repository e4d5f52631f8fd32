from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from etrm.config import Config, load, with_settings
from etrm.errors import ArgumentError
from etrm.model.encoders.base import Encoded
from etrm.model.encoders.standard import StandardEncoder
from etrm.training.scoring.overfit_gate import Gate, compare_demonstrations, judge
from etrm.training.trainer import Trainer, train
from tests.errors import raises_code

Smoke = Callable[..., Config]


def test_a_run_that_ends_above_the_goal_passes() -> None:
    found = judge([0.5] * 30 + [0.96] * 40)
    assert found.passed
    assert found.accuracy == pytest.approx(0.96)
    assert not found.collapsed


def test_the_step_reached_is_the_last_of_the_first_mean_above_the_goal() -> None:
    assert judge([0.0] * 10 + [1.0] * 40).reached == 34  # steps 10 to 34: one 0 and 24 ones, .96
    assert judge([0.96] * 25).reached == 25
    assert judge([0.95] * 25) == Gate(pytest.approx(0.95), None, None)
    assert not judge([0.95] * 25).passed


def test_a_peak_that_was_lost_is_a_collapse_even_where_it_came_back() -> None:
    lost = [0.7] * 25 + [0.3] * 25
    assert judge(lost).collapsed
    assert judge([0.9] * 40 + [0.1] * 40).fell == 55  # .9 - .032 (step - 40) < .45
    again = judge([*lost, *[1.0] * 25])
    assert again.collapsed
    assert again.accuracy == 1.0
    assert not again.passed


def test_a_low_peak_and_a_half_kept_are_no_collapse() -> None:
    assert not judge([0.59] * 25 + [0.1] * 25).collapsed
    assert not judge([0.5] * 25 + [0.25] * 25).collapsed
    assert not judge([0.75] * 25 + [0.375] * 25).collapsed


def test_too_few_steps_are_refused() -> None:
    with raises_code(ArgumentError, "gate.too-few-steps", 24, 25):
        judge([1.0] * 24)


def test_a_cut_off_encoder_is_worth_nothing_and_a_working_one_something(tmp_path: Path, smoke: Smoke) -> None:
    """With a context that is always zero, foreign demonstrations change no loss at all."""
    train(smoke("train.steps=2", "data.max_tasks=6"), tmp_path / "run")
    own, foreign = compare_demonstrations(tmp_path / "run")
    assert own != foreign
    with pytest.MonkeyPatch.context() as patch:
        read = StandardEncoder.read
        patch.setattr(StandardEncoder, "read", lambda *args: Encoded(torch.zeros_like(read(*args).context)))
        own, foreign = compare_demonstrations(tmp_path / "run")
    assert own == foreign


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ten_tasks_are_fitted_in_500_steps_without_collapse(seed: int) -> None:
    trainer = Trainer(with_settings(load("overfit"), train={"seed": seed, "threads": 1}))
    metrics = [trainer.train_step() for _ in range(trainer.config.train.steps)]
    found = judge([step["accuracy_all"] for step in metrics])
    assert found.passed, found
    assert {step["encoder.coverage"] for step in metrics} == {1.0}
