"""The survey of a run whose answers are known: what the run, the search and a copy solve."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etrm.checkpoints.saved_steps import list_saved, step_of
from etrm.config import Changes, load, with_settings
from etrm.errors import CheckpointError, ConfigError, DataError, LeakageError
from etrm.symbolic.library import Library
from etrm.training.scoring.explain_run import RunExplainer
from etrm.training.scoring.formula_survey import FormulaSurvey
from etrm.training.scoring.predictor import BEST, load_model
from etrm.training.scoring.score_run import evaluate_run
from etrm.training.trainer import train
from tests.errors import raises_code
from tests.known_run import FLIP, train_known_run


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_known_run(tmp_path_factory.mktemp("survey"))


def test_what_run_search_and_copy_solve(known: Path) -> None:
    found = {one.explained.task.id: one for one in FormulaSurvey(known, {})}
    assert list(found) == ["copy", "flip", "nearly", "noise"]
    assert [name for name, one in found.items() if one.explained.solved] == ["copy", "flip"]
    assert [name for name, one in found.items() if one.solved_by_search] == ["copy", "flip"]
    assert [name for name, one in found.items() if one.solved_by_copy] == ["copy"]
    for name in ("flip", "nearly"):
        assert str(found[name].searched) == str(found[name].explained.queries[0].rules[0].rule) == FLIP
        assert found[name].explained.fit == 1
    wrong = found["nearly"].explained.queries[0].wrong
    assert wrong is not None
    assert np.argwhere(wrong).tolist() == [[0, 0]]


def test_the_survey_agrees_with_the_evaluation(known: Path) -> None:
    report = evaluate_run(known, {}).report
    solved = {result.task_id for result in report.queries if result.solved(1)}
    assert solved == {one.explained.task.id for one in FormulaSurvey(known, {}) if one.explained.solved}


def test_the_survey_takes_the_weights_that_its_settings_name(
    known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    def load(folder: Path, weights: Any, which: Any) -> Any:
        taken.append(weights)
        return load_model(folder, weights, which)

    monkeypatch.setattr("etrm.training.scoring.explain_run.load_model", load)
    for settings in ({}, {"weights": "raw"}):
        FormulaSurvey(known, {"evaluate": settings})
    assert taken == ["ema", "raw"]


def test_the_best_checkpoint_of_a_finished_run_may_be_an_earlier_one(tmp_path: Path) -> None:
    run = train_known_run(tmp_path)
    first, last = list_saved(run / "checkpoints")
    best: Changes = {"evaluate": {"checkpoint": "best"}}
    with raises_code(CheckpointError, "checkpoint.no-best"):
        FormulaSurvey(run, best)
    shutil.copytree(first, run / BEST / first.name)
    assert FormulaSurvey(run, best).step == step_of(first) < FormulaSurvey(run, {}).step == step_of(last)


def test_the_search_takes_the_fixed_families_of_the_run(known: Path) -> None:
    assert FormulaSurvey(known, {}).searched_families == ("original",)


def test_a_run_with_learned_formulas_alone_is_compared_with_all_fixed_ones(tmp_path: Path) -> None:
    small = {"train": {"steps": 1, "warmup_steps": 0, "batch_size": 2}, "evaluate": {"max_tasks": 1}}
    config = with_settings(load("symbolic-rules"), data={"max_tasks": 4}, **small)
    assert train(config, tmp_path / "run")
    survey = FormulaSurvey(tmp_path / "run", {})
    assert "learned" not in survey.searched_families
    assert len(survey.searched_families) == 5
    (one,) = survey
    assert one.searched is not None


def test_training_tasks_need_permission(known: Path) -> None:
    with raises_code(LeakageError, "data.leakage"):
        FormulaSurvey(known, {"evaluate": {"subset": "training"}})
    trained = FormulaSurvey(known, {"evaluate": {"subset": "training", "allow_trained": ("all",)}})
    assert [one.explained.trained for one in trained] == [True, True]


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    run = train_known_run(tmp_path)
    config = run / "config.json"
    config.write_text(config.read_text().replace('"steps": 1', '"steps": 2'))
    with raises_code(CheckpointError, "symbolic.unfinished-run", "step 1", "step 2", f"--resume --out {run}"):
        FormulaSurvey(run, {})
    for path in (run / "checkpoints").iterdir():
        path.rename(tmp_path / path.name)
    with raises_code(CheckpointError, "checkpoint.absent"):
        FormulaSurvey(run, {})


def test_another_variant_is_refused(tmp_path: Path) -> None:
    assert train(with_settings(load("smoke"), train={"steps": 1, "warmup_steps": 0}), tmp_path / "run")
    with raises_code(ConfigError, "symbolic.other-variant", "etrm", "symbolic"):
        FormulaSurvey(tmp_path / "run", {})


@pytest.mark.parametrize(("asked", "shown"), [("fli", "flip"), ("nearby", "nearly"), ("?", "copy")])
def test_an_unknown_task_names_similar_ones(known: Path, asked: str, shown: str) -> None:
    with raises_code(DataError, "symbolic.unknown-task", repr(asked), shown, "etrm symbolic report"):
        RunExplainer(known).find(asked)


def test_the_known_run_chooses_from_its_library(known: Path) -> None:
    explainer = RunExplainer(known)
    explained = explainer.explain(explainer.find("flip"))
    rules = Library.of(explainer.config.model.symbolic).rules
    assert explained.queries[0].rules[0].rule in rules
    assert explained.templates > 100
