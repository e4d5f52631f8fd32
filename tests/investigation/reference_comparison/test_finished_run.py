"""A finished run against the run that resumes there and its evaluation: equal, and a planted change is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.run_folder import read_metrics
from etrm.config import Config
from etrm.data import Episodes
from etrm.investigation.reference_comparison.evaluate_command import compare_requested, compare_requested_fits
from etrm.investigation.reference_comparison.finished_run import compare_log, compare_resumed
from etrm.reference.departure import PipelineStage
from etrm.training import trainer
from etrm.training.execution.prefetch import Prefetch
from etrm.training.monitoring.step_check import ComparedStep
from etrm.training.optim import schedule
from etrm.training.scoring.held_out_curve import SOLVED, TOKENS, HeldOutCurve
from etrm.training.train_state import TrainState
from etrm.training.trainer import train
from tests.reference.training.test_step import config_of

EVERY: dict[str, Any] = {
    "train": {"steps": 4, "warmup_steps": 1, "checkpoint_every": 2, "lr": 1e-2},
    "evaluate": {"every": 1, "max_tasks": 2},
}


def run_of(path: Path, **changes: Any) -> Config:
    config = config_of(**{**EVERY, **changes})
    train(config, path)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run"
    run_of(path)
    return path


def test_a_healthy_run_is_resumed_and_evaluated_as_it_is(folder: Path) -> None:
    before = sorted(one.name for one in folder.rglob("*"))
    assert compare_resumed(folder) == []
    assert compare_log(folder) == []
    assert sorted(one.name for one in folder.rglob("*")) == before


def test_a_line_of_the_log_that_is_not_what_its_step_logged_is_the_score(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 2.0, "frozen": None}, {"step": 2, "loss": 1.5, "frozen": None}]
    steps = [ComparedStep(line["step"], 0, logged=line) for line in lines]
    (tmp_path / "reference.jsonl").write_text("".join(f"{step.to_json()}\n" for step in steps))
    for loss, where in (
        (1.5, []),
        (1.75, ["1.75 is in the log instead of 1.5, step 2"]),
    ):
        log = [lines[0], lines[1] | {"loss": loss, "held_out.solved": 0.5}]
        (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in log))
        found = compare_log(tmp_path)
        assert [one.where for one in found] == where
        assert {one.stage for one in found} <= {PipelineStage.SCORE}


def test_no_process_that_draws_samples_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    class InThisProcess(Prefetch):
        """Draws in this process and counts."""

        def __init__(self, config: Config, episodes: Episodes, loader: Any, depth: int) -> None:
            started.append(config.data.workers)
            self._draw, self._open = loader(config), False

        def close(self) -> None:
            """Has nothing to end."""

    monkeypatch.setattr(trainer, "Prefetch", InThisProcess)
    run_of(tmp_path / "run", data={"workers": 1}, evaluate={"max_tasks": 2})
    assert compare_resumed(tmp_path / "run") == []
    assert started == [1]


def test_a_run_without_evaluations_is_resumed(tmp_path: Path) -> None:
    run_of(tmp_path / "run", evaluate={"max_tasks": 2}, model={"encoder": {"kind": "hybrid_variational"}})
    assert compare_resumed(tmp_path / "run") == []


def test_a_table_of_ids_is_resumed_and_not_evaluated(tmp_path: Path) -> None:
    run_of(tmp_path / "run", model={"variant": "trm"}, data={"augmentations": 2}, evaluate={"max_tasks": 2})
    assert compare_resumed(tmp_path / "run") == []
    assert compare_requested(tmp_path / "run") == []
    assert compare_requested_fits(tmp_path / "run") == []


def test_another_best_score_after_resuming_is_the_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recall(self: HeldOutCurve, path: Path, size: int) -> None:
        last = read_metrics(path, size)[-1]
        self.best = last[SOLVED], last[TOKENS]

    monkeypatch.setattr(HeldOutCurve, "recall", recall)
    assert [(found.stage, found.tensor) for found in compare_resumed(folder)] == [
        (PipelineStage.WEIGHTS, "best score")
    ]


def test_a_line_of_the_log_that_a_resumed_run_logs_again_is_the_score(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etrm.checkpoints.run_folder.os.truncate", lambda path, size: None)
    [found] = compare_resumed(folder)
    assert (found.stage, found.tensor) == (PipelineStage.SCORE, "lines of the log")


def test_the_best_score_is_that_of_the_steps_before_the_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has steps after the checkpoint from which the run resumes."""
    recall = HeldOutCurve.recall
    monkeypatch.setattr(HeldOutCurve, "recall", lambda self, path, size: recall(self, path, 1 << 30))
    assert [(found.stage, found.tensor) for found in compare_resumed(folder)] == [
        (PipelineStage.WEIGHTS, "best score")
    ]


def test_the_steps_of_a_resumed_run_are_those_of_the_reference(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is that of the checkpoint, and the next rate is another one."""
    monkeypatch.setattr(trainer, "schedule", lambda step, train: 0.5 * schedule(step, train))
    found = compare_resumed(folder)
    assert (found[0].stage, found[0].step) == (PipelineStage.SCHEDULE, None)


def test_a_checkpoint_of_other_weights_than_the_run_went_on_with_is_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is rounded to bfloat16, so that all that is read agrees."""

    def rounded(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        lowered = {k: v.bfloat16().to(v.dtype) if v.is_floating_point() else v for k, v in tensors.items()}
        whole(path, lowered)

    whole = checkpoints._save_tensors
    monkeypatch.setattr(checkpoints, "_save_tensors", rounded)
    run_of(tmp_path / "run", evaluate={"max_tasks": 2})
    assert [(found.stage, found.tensor) for found in compare_resumed(tmp_path / "run")] == [
        (PipelineStage.WEIGHTS, "logged lm_loss from the checkpoint")
    ]


def test_a_run_with_one_checkpoint_is_resumed_at_its_end(tmp_path: Path) -> None:
    run_of(tmp_path / "run", train={"steps": 2, "warmup_steps": 1, "checkpoint_every": 2})
    assert compare_resumed(tmp_path / "run") == []


def test_states_that_are_not_restored_are_the_carry(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(self: TrainState, bucket: int, carry: Any) -> None:
        if bucket not in self.carries:
            first(self, bucket, carry)

    first = TrainState.set_carry
    monkeypatch.setattr(TrainState, "set_carry", keep)
    assert {found.stage for found in compare_resumed(folder)} == {PipelineStage.CARRY}
