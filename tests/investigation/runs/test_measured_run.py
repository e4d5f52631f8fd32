"""A run that is measured or stopped at a departure, and the trainer of a run folder, built anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from etrm.checkpoints.run_folder import RunFolder, read_metrics
from etrm.config import load, with_settings
from etrm.investigation.runs.measured_run import (
    measured_run,
    rebuild_trainer,
    training_queries,
)
from etrm.training.monitoring.step_check import read_compared
from etrm.training.trainer import Trainer


@pytest.mark.parametrize("fault", ["warmup-too-long", "lr-too-high"])
def test_a_rebuilt_trainer_has_the_faults_of_its_run_once(tmp_path: Path, fault: str) -> None:
    config = with_settings(load("smoke"), monitor={"enabled": False}, faults=(fault,))
    folder = RunFolder(tmp_path / "run", config, resume=False)
    first = Trainer(config, folder)
    folder.close()
    again = rebuild_trainer(folder.path)
    assert again.config == first.config
    assert again.config.train != config.train


def test_a_run_stops_at_its_first_departure_and_can_be_continued(tmp_path: Path) -> None:
    config = with_settings(
        load("smoke"),
        data={"max_tasks": 6, "max_side": 3},
        train={"steps": 6, "batch_size": 4, "threads": 1},
        faults=("context-detached",),
    )

    def run(*, until_departure: bool) -> dict[str, object] | None:
        return measured_run(
            config, tmp_path / "run", measure=False, held_out=False, until_departure=until_departure
        )

    assert run(until_departure=True) is None
    assert [bool(step.departures) for step in read_compared(tmp_path / "run")] == [True]
    assert len(read_metrics(tmp_path / "run")) == 1
    assert run(until_departure=True) is None  # it was stopped there before
    assert len(read_metrics(tmp_path / "run")) == 1
    assert run(until_departure=False) is not None
    assert len(read_metrics(tmp_path / "run")) == 6


def test_a_run_that_departs_nowhere_is_not_stopped(tmp_path: Path) -> None:
    config = with_settings(
        load("smoke"),
        data={"max_tasks": 6, "max_side": 3},
        train={"steps": 2, "batch_size": 4, "threads": 1},
    )
    found = measured_run(config, tmp_path / "run", measure=False, held_out=False, until_departure=True)
    assert found == {"measured": {}, "answers": []}


def test_the_training_queries_are_spread_over_at_most_64_tasks(tmp_path: Path) -> None:
    """Of 127 tasks all were taken."""
    small = with_settings(load("smoke"), data={"max_side": 14, "max_tasks": 127}, train={"threads": 1})
    folder = RunFolder(tmp_path / "run", small, resume=False)
    trainer = Trainer(small, folder)
    folder.close()
    ids = [sample.task_id for sample in training_queries(trainer)]
    names = sorted(task.id for task in trainer.tasks)
    assert ids == [names[i * 127 // 64] for i in range(64)]
