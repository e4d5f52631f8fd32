"""A checkpoint holds the state of its own step, and the run that is restored from it is what it was."""

from __future__ import annotations

import pytest
import torch

from etrm.checkpoints.format import Checkpoint
from etrm.config import load, with_settings
from etrm.investigation.reference_comparison.checkpoint_check import CheckpointCheck
from etrm.reference.departure import PipelineStage
from etrm.training.train_state import TrainState
from etrm.training.trainer import Trainer


@pytest.fixture
def trainer() -> Trainer:
    small = {"data": {"max_tasks": 6, "max_side": 3}, "monitor": {"enabled": False}}
    return Trainer(with_settings(load("smoke"), **small, train={"batch_size": 4, "threads": 1}))


def advance(trainer: Trainer, steps: int) -> None:
    for _ in range(steps):
        trainer.advance()


def test_healthy_checkpoints_depart_nowhere(trainer: Trainer) -> None:
    check = CheckpointCheck(trainer.state, noise=False)
    assert check.capture() == []  # before the first step, when nothing is averaged
    advance(trainer, 3)
    assert check.capture() == []
    advance(trainer, 2)
    assert check.restore() == []
    assert trainer.step == 3


def test_an_average_of_the_checkpoint_before_departs(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture, held = TrainState.capture, list[Checkpoint]()

    def late(state: TrainState) -> Checkpoint:
        held.append(capture(state))
        older = held[-2:][0]
        return Checkpoint(held[-1].step, held[-1].model, older.ema, held[-1].tensors, held[-1].state)

    monkeypatch.setattr(TrainState, "capture", late)
    check = CheckpointCheck(trainer.state, noise=False)
    advance(trainer, 2)
    assert check.capture() == []
    advance(trainer, 2)
    found = check.capture()
    assert {departure.stage for departure in found} == {PipelineStage.WEIGHTS}


def test_a_run_that_resumes_without_its_moments_departs(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etrm.training.train_state._restore_optimizers", lambda optimizers, tensors: None)
    check = CheckpointCheck(trainer.state, noise=False)
    advance(trainer, 2)
    assert check.capture() == []
    advance(trainer, 1)
    found = check.restore()
    assert {departure.stage for departure in found} == {PipelineStage.UPDATE}
    assert any(departure.tensor.endswith(".exp_avg") for departure in found)


def test_a_checkpoint_shares_no_memory_with_the_run(trainer: Trainer) -> None:
    check = CheckpointCheck(trainer.state, noise=False)
    advance(trainer, 1)
    check.capture()
    kept = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    advance(trainer, 1)
    check.restore()
    assert all(torch.equal(kept[name], value) for name, value in trainer.model.state_dict().items())
