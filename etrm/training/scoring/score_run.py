"""Score a run on tasks that it never saw, and compare it with baselines that need no learning."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from etrm.checkpoints.run_folder import read_config
from etrm.config import AdaptedPart, Changes, Config, with_settings
from etrm.data import TaskSet, check_leakage
from etrm.device import to_device
from etrm.errors import ConfigError
from etrm.evaluation import BASELINES, EvaluationReport, Submitted, evaluate_baselines, write_submission
from etrm.evaluation.misleading import MisleadingScores, score_misleading
from etrm.model.construct import build_variant
from etrm.model.variant import Variant
from etrm.training.faults import build_recipe
from etrm.training.scoring.fitted_scores import Fit, Fitted, FittedScores, OnProgress, score_fitted
from etrm.training.scoring.predictor import evaluate_tasks, load_model, make_noisy, make_predictor
from etrm.training.task_sets import load_held_out_tasks, load_whole_set

OWN_SECTIONS = frozenset({"evaluate", "data"})
"""Sections of the settings that an evaluation reads; the others are those of the training."""

UNTRAINED = "untrained model"
"""The name of the baseline that is the same model before training."""


@dataclass(frozen=True)
class Evaluated:
    """The answers of a run.

    Attributes:
        config: the config of the run, with the settings of the evaluation.
        step: the step of the checkpoint.
        weights: the kind of weights, ema or raw.
        model: the evaluated model, in evaluation mode.
        trained: the tasks that it was trained on.
        held_out: the tasks that it was evaluated on.
        report: the answers and their scores.
    """

    config: Config
    step: int
    weights: str
    model: Variant
    trained: TaskSet
    held_out: TaskSet
    report: EvaluationReport


@dataclass(frozen=True)
class Scores:
    """The scores of a run and of its baselines.

    Attributes:
        config: the config of the run, with the settings of the evaluation.
        step: the step of the checkpoint.
        weights: the kind of weights, ema or raw.
        held_out: the tasks that it was evaluated on.
        model: the report of the run.
        others: the reports of the trivial baselines and of the same model untrained, by name.
        misleading: scores that overstate the run and the trivial baselines, by name; empty unless requested.
        fitted: the scores of the run after fitting something to each task, by what is fitted.
        interrupted: whether Ctrl-C ended the fitting; its scores are then those of the tasks that were finished.
    """

    config: Config
    step: int
    weights: str
    held_out: TaskSet
    model: EvaluationReport
    others: dict[str, EvaluationReport]
    misleading: Mapping[str, MisleadingScores] = field(default_factory=dict)
    fitted: Mapping[Fit, FittedScores] = field(default_factory=dict)
    interrupted: bool = False


def evaluate_run(folder: Path, settings: Changes) -> Evaluated:
    """Evaluate the newest checkpoint of a run folder, or its best one as ``evaluate.checkpoint`` says.

    Args:
        folder: the run folder.
        settings: settings of the sections evaluate and data to change, as :func:`etrm.config.with_settings` takes them.

    Raises:
        ConfigError: a setting is of another section, which was decided in training.
        LeakageError: an evaluation task was trained on and is not in ``evaluate.allow_trained``.
        EtrmError: there is no run, no whole checkpoint, or no such tasks.
    """
    _check_sections(settings)
    chosen = with_settings(read_config(folder), **settings).evaluate
    weights = chosen.weights
    model, trained_with, tasks, step = load_model(folder, weights, which=chosen.checkpoint)
    config = with_settings(trained_with, **settings)
    held_out = load_held_out_tasks(config)
    if "all" not in config.evaluate.allow_trained:
        check_leakage(tasks, held_out, config.evaluate.allow_trained)
    return Evaluated(config, step, weights, model, tasks, held_out, _evaluate(model, held_out, config, tasks))


def _check_sections(settings: Changes) -> None:
    others = sorted(settings.keys() - OWN_SECTIONS)
    if others:
        raise ConfigError(
            "evaluate.other-section",
            f"the section {others[0]} cannot be changed: it was decided when the run was trained",
            got=", ".join(others),
            allowed="settings that begin with evaluate. or data.",
            next_step="etrm evaluate RUN --set evaluate.subset=training, or train another run",
        )


def score_run(
    folder: Path,
    settings: Changes,
    *,
    misleading: bool = False,
    search: bool = False,
    adapted: AdaptedPart | None = None,
    progress: OnProgress = lambda work, done, total: None,
) -> Scores:
    """Evaluate the newest checkpoint of a run folder, and baselines that need no learning.

    Args:
        folder: the run folder.
        settings: settings of the evaluate section to change, as :func:`etrm.config.with_settings` takes them.
        misleading: whether to score in ways that overstate the run, too.
        search: whether to search the context of each task, too.
        adapted: the part of the model to adapt to each task, too.
        progress: the function that is called when fitting has finished tasks.

    Raises:
        ConfigError: misleading scores are requested of a model without an encoder, or the model has nothing that
            could be searched or adapted.
        EtrmError: see :func:`evaluate_run`.
    """
    if misleading:
        _check_encoder(folder)
    found = evaluate_run(folder, settings)
    config, held_out = found.config, found.held_out
    others = evaluate_baselines(held_out, config.data)
    others[UNTRAINED] = _evaluate(_build_untrained(found), held_out, config, found.trained)
    fitted = Fitted({})
    if search or adapted is not None:
        fitted = score_fitted(
            found.model, config, held_out, found.trained, search=search, part=adapted, progress=progress
        )
    overstated = score_misleadingly(found) if misleading and not fitted.interrupted else {}
    return Scores(
        config=config,
        step=found.step,
        weights=found.weights,
        held_out=held_out,
        model=found.report,
        others=others,
        misleading=overstated,
        fitted=fitted.scores,
        interrupted=fitted.interrupted,
    )


def submit(scores: Scores, file: Path) -> Submitted:
    """Write a Kaggle submission of the whole data set, with the answers of the last way of fitting, if there is one.

    Raises:
        DataError: the file cannot be written.
    """
    everything = load_whole_set(scores.config, scores.held_out)
    fitted = [one.report for fit, one in scores.fitted.items() if fit is not Fit.MISMATCHED]
    answers = (fitted or [scores.model])[-1].candidates
    return write_submission(file, everything, answers, scores.config.data.max_side)


def score_misleadingly(found: Evaluated) -> dict[str, MisleadingScores]:
    """Score a run and the trivial baselines in ways that overstate them; the noise is the same at every call."""
    config, model = found.config, found.model
    options: dict[str, Any] = {"data": config.data, "batch_size": config.evaluate.batch_size}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(config.train.seed)
        scores = score_misleading(
            found.held_out,
            make_predictor(model, config.evaluate),
            make_predictor(make_noisy(model), config.evaluate),
            augmentations=config.evaluate.augmentations,
            seed=config.train.seed,
            variant=config.model.variant,
            **options,
        )
    others = {
        name: score_misleading(found.held_out, baseline, augmentations=1, variant="trm", **options)
        for name, baseline in BASELINES.items()
    }
    return {"this run": scores, **others}


def _check_encoder(folder: Path) -> None:
    model = read_config(folder).model
    if not model.has_encoder:
        raise ConfigError(
            "evaluate.misleading-without-encoder",
            "a model that looks tasks up by their ids cannot answer demonstration pairs",
            got=f"model.variant {model.variant!r}",
            allowed="a variant with an encoder",
            next_step=f"etrm evaluate {shlex.quote(str(folder))}",
        )


def _evaluate(model: Variant, held_out: TaskSet, config: Config, tasks: TaskSet) -> EvaluationReport:
    predictor = make_predictor(model, config.evaluate)
    return evaluate_tasks(build_recipe(config), predictor, held_out, config, tasks)


def _build_untrained(found: Evaluated) -> Variant:
    """The model of a run with weights drawn from the seed of the run, so that every evaluation scores the same ones."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(found.config.train.seed)
        untrained = build_variant(found.config.model, puzzles=_puzzles(found.model))
    return to_device(untrained, found.model.device).eval()


def _puzzles(model: Variant) -> int:
    return 0 if model.puzzle_table is None else len(model.puzzle_table.weights)
