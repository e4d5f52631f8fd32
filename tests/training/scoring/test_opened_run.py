from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from etrm.config import Changes, Config
from etrm.errors import ConfigError, LeakageError, RunFolderError
from etrm.training.scoring.opened_run import check_sections, open_run
from etrm.training.scoring.run_analysis import analyse_run
from etrm.training.scoring.score_run import score_run
from etrm.training.trainer import train
from tests.errors import raises_code


@pytest.fixture
def tasks(tasks_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tasks that a test may change."""
    return Path(shutil.copytree(tasks_folder, tmp_path / "tasks"))


@pytest.fixture
def run(tmp_path: Path, smoke: Callable[..., Config], tasks: Path) -> Path:
    """A run of one step on these tasks."""
    source = (f"data.source={tasks}", f"evaluate.source={tasks}")
    assert train(
        smoke("train.steps=1", "train.warmup_steps=0", "monitor.enabled=false", *source), tmp_path / "run"
    )
    return tmp_path / "run"


def test_the_run_is_opened_with_its_tasks(run: Path) -> None:
    opened = open_run(run, {"evaluate": {"weights": "raw", "max_tasks": 2}})
    assert (opened.step, opened.weights, len(opened.held_out)) == (1, "raw", 2)
    assert {task.id for task in opened.trained}.isdisjoint(task.id for task in opened.held_out)


def test_a_checkpoint_in_a_run_is_opened_instead_of_the_newest(run: Path) -> None:
    begin, end = sorted((run / "checkpoints").iterdir())
    assert [open_run(path, {}).step for path in (begin, end, run)] == [0, 1, 1]
    assert [score_run(path, {"evaluate": {"max_tasks": 1}}).step for path in (begin, run)] == [0, 1]


def test_a_trained_task_that_was_moved_to_the_held_out_ones_is_noticed(run: Path, tasks: Path) -> None:
    moved = sorted((tasks / "training").iterdir())[0]
    moved.rename(tasks / "evaluation" / moved.name)
    with raises_code(RunFolderError, "run.other-tasks", str(run)):
        score_run(run, {})


OTHERS: tuple[Changes, ...] = ({"train": {"lr": 5.0}}, {"model": {"hidden_size": 64}})


@pytest.mark.parametrize("settings", OTHERS)
def test_what_was_decided_in_training_is_refused(run: Path, settings: Changes) -> None:
    for refuses in (
        check_sections,
        lambda given: open_run(run, given),
        lambda given: analyse_run(run, given),
    ):
        with raises_code(ConfigError, "evaluate.other-section", *settings):
            refuses(settings)


def test_a_table_of_task_ids_keeps_its_rows(tmp_path: Path, smoke: Callable[..., Config]) -> None:
    """With another number of rows per task, a task would be answered from the row of another one."""
    table = ("model.variant=trm", "data.augmentations=4", "evaluate.subset=training")
    few = ("train.steps=1", "train.warmup_steps=0", "monitor.enabled=false", 'evaluate.allow_trained=["all"]')
    assert train(smoke(*table, *few), tmp_path / "run")
    assert open_run(tmp_path / "run", {"data": {"augmentations": 4}}).step == 1
    with raises_code(ConfigError, "evaluate.other-puzzle-rows", 2, 4):
        open_run(tmp_path / "run", {"data": {"augmentations": 2}})


def test_trained_tasks_are_no_held_out_ones(run: Path) -> None:
    trained: Changes = {"evaluate": {"subset": "training"}}
    for opens in (open_run, analyse_run):
        with raises_code(LeakageError, "data.leakage"):
            opens(run, trained)
