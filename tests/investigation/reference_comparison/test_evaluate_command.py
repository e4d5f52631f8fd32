"""What `etrm evaluate` reports against the same evaluations, put together alone: equal, or a change is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from etrm.config import Config, EvaluateConfig, load, with_settings
from etrm.data import TaskSet, load_tasks
from etrm.evaluation import BASELINES, evaluate_baselines
from etrm.evaluation.misleading import score_misleading
from etrm.investigation.reference_comparison import evaluate_command
from etrm.investigation.reference_comparison.evaluate_command import compare_requested, compare_requested_fits
from etrm.model.construct import build_variant
from etrm.model.variant import Variant
from etrm.reference.departure import Departure, PipelineStage
from etrm.training.scoring import fitted_scores, opened_run, score_run
from etrm.training.scoring.predictor import make_predictor
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import train
from tests.reference.training.test_step import config_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluated") / "run"
    config = config_of(train={"steps": 2, "lr": 1e-2}, data={"max_side": 4})  # several held-out tasks
    train(config, path)
    return path


def test_what_is_reported_of_a_healthy_run_is_what_its_parts_give(folder: Path) -> None:
    assert compare_requested(folder) == []
    assert compare_requested_fits(folder) == []


def test_rules_have_one_vote_in_a_fit_too(tmp_path: Path) -> None:
    """An augmentation would turn a rule into another one, so two votes are refused."""
    config = with_settings(
        load("rules"),
        data={"stream": None, "max_tasks": 2},
        model={"hidden_size": 16, "layers": 1},
        train={"steps": 1, "warmup_steps": 1, "batch_size": 2, "threads": 1},
        monitor={"enabled": False},
        evaluate={"max_tasks": 2, "every": None},
    )
    train(config, tmp_path / "run")
    assert compare_requested_fits(tmp_path / "run") == []


def test_a_table_that_has_rows_for_the_tasks_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(
        model={"variant": "trm"},
        data={"augmentations": 2},
        train={"steps": 2, "lr": 1e-2},
        evaluate={"subset": "training", "max_tasks": 2, "allow_trained": ("all",)},
    )
    train(config, tmp_path / "run")
    assert compare_requested(tmp_path / "run") == []
    load = opened_run.load_model
    monkeypatch.setattr(opened_run, "load_model", lambda path, kind, which: load(path, "ema", which=which))
    assert compare_requested(tmp_path / "run")[0].stage is PipelineStage.ANSWERS


def test_a_submission_without_the_fits_is_the_evaluation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit_plain(scores: score_run.Scores, file: Path) -> Any:
        return score_run.submit(replace(scores, fitted={}), file)

    monkeypatch.setattr(evaluate_command, "submit", submit_plain)
    found = compare_requested_fits(folder)
    assert [(one.stage, one.tensor) for one in found] == [(PipelineStage.SCORE, "submission")]


def test_an_untrained_model_of_another_seed_is_the_evaluation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a baseline: no answer of the run shows that it is another one."""

    def build(found: score_run.Evaluated) -> Variant:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(found.config.train.seed + 1)
            return build_variant(found.config.model).eval()

    monkeypatch.setattr(score_run, "_build_untrained", build)
    found = compare_requested(folder)
    assert {one.stage for one in found} <= {PipelineStage.ANSWERS, PipelineStage.SCORE}
    assert list_places(found) == {"reported by the command of the untrained model"}


def test_baselines_of_other_tasks_are_the_evaluation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = load_tasks("arc-agi-1", max_side=4, max_tasks=3)
    monkeypatch.setattr(score_run, "evaluate_baselines", lambda tasks, data: evaluate_baselines(other, data))
    found = compare_requested(folder)
    assert {one.stage for one in found} == {PipelineStage.VOTES, PipelineStage.SCORE}
    assert {one.where.partition(":")[0] for one in found} == {f"baseline {name}" for name in BASELINES}


def test_a_submission_of_the_evaluated_tasks_alone_is_the_evaluation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_run, "load_whole_set", lambda config, held_out: held_out)
    found = compare_requested(folder)
    assert [one.tensor for one in found] == ["submission", "placeholders of the submission"]


def test_weights_that_are_asked_for_and_ignored_are_the_answers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's own settings name the averaged weights, so that only other settings show it."""
    load = opened_run.load_model
    monkeypatch.setattr(opened_run, "load_model", lambda path, kind, which: load(path, "ema", which=which))
    found = compare_requested(folder)
    assert found[0].stage is PipelineStage.ANSWERS
    assert list_places(found) == {"reported by the command with other settings"}


def test_a_setting_of_the_data_that_is_ignored_is_the_held_out_tasks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(config: Config) -> TaskSet:
        return load_held_out_tasks(with_settings(config, data={"max_side": 4}))

    monkeypatch.setattr(opened_run, "load_held_out_tasks", load)
    [found] = compare_requested(folder)
    assert (found.stage, found.tensor) == (PipelineStage.QUERIES, "held-out tasks")


def test_misleading_scores_of_exchanged_models_and_other_baselines_are_the_evaluation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchange(tasks: TaskSet, plain: Any, noisy: Any = None, **options: Any) -> Any:
        models = (plain, noisy) if noisy is None else (noisy, plain)
        return score_misleading(tasks, *models, **options)

    mirrored = dict(zip(BASELINES, reversed(BASELINES.values()), strict=True))
    monkeypatch.setattr(score_run, "BASELINES", mirrored)
    monkeypatch.setattr(score_run, "score_misleading", exchange)
    monkeypatch.setattr(score_run, "fit_to_tasks", lambda *args, **options: fitted_scores.FittedAnswers({}))
    monkeypatch.setattr(evaluate_command, "_fit_alone", lambda expected: {})
    found = compare_requested_fits(folder)
    assert {one.stage for one in found} == {PipelineStage.SCORE}
    assert {(one.tensor, one.where) for one in found} == {
        ("misleading score, cells", "reported by the command"),
        ("value", "misleading score, cells"),
    }


@pytest.mark.filterwarnings("ignore:evaluate.precision")
def test_an_evaluation_of_other_answers_is_the_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    low = EvaluateConfig(precision="bfloat16")
    monkeypatch.setattr(score_run, "make_predictor", lambda model, settings: make_predictor(model, low))
    found = compare_requested(folder)
    assert found[0].stage is PipelineStage.ANSWERS


@pytest.mark.parametrize("fault", ["adapted model", "mismatched"])
def test_a_fit_that_does_not_reach_its_answers_is_the_evaluation(
    fault: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, adapt = fitted_scores._answer, fitted_scores.adapt
    plain = list[Variant]()

    def keep(model: Variant, *rest: Any) -> Any:
        plain.append(model)
        return adapt(model, *rest)

    if fault == "adapted model":
        monkeypatch.setattr(fitted_scores, "adapt", keep)
        monkeypatch.setattr(fitted_scores, "_answer", lambda model, *rest: first(plain[-1], *rest))
    else:
        monkeypatch.setattr(fitted_scores, "mismatch", lambda samples: [*samples[1:], samples[0]])
    found = compare_requested_fits(folder)
    words = {"adapted model": "adapted", "mismatched": "searched, mismatched"}[fault]
    assert list_places(found) == {f"reported by the command, {words}"}


def list_places(found: list[Departure]) -> set[str]:
    return {one.where.partition(", task")[0] for one in found}
