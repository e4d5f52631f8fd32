"""Score a run on tasks that it never saw, and compare it with baselines that need no learning."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from etrm.checkpoints.run_folder import read_config
from etrm.checkpoints.saved_steps import split_checkpoint
from etrm.config import AdaptedPart, Changes, Config
from etrm.data import TaskSet
from etrm.device import to_device
from etrm.errors import ConfigError
from etrm.evaluation import BASELINES, EvaluationReport, Submitted, evaluate_baselines, write_submission
from etrm.evaluation.misleading import MisleadingScores, score_misleading
from etrm.model.construct import build_variant
from etrm.model.variant import Variant
from etrm.training.faults import build_recipe
from etrm.training.scoring.fitted_scores import Fit, Fitted, FittedScores, OnProgress, fit_to_tasks
from etrm.training.scoring.opened_run import OpenedRun, open_run
from etrm.training.scoring.predictor import evaluate_tasks, make_noisy, make_predictor, with_progress
from etrm.training.task_sets import load_whole_set

ANSWERS = "answers"
"""The name of the work on the answers of the run."""
UNTRAINED = "untrained model"
"""The name of the baseline that is the same model before training."""


@dataclass(frozen=True)
class Evaluated(OpenedRun):
    """A run with its answers.

    Attributes:
        report: the answers and their scores.
    """

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


def evaluate_run(
    folder: Path, settings: Changes, progress: OnProgress = lambda work, done, total: None
) -> Evaluated:
    """Evaluate a checkpoint of a run folder.

    Args:
        folder: the run folder, or a checkpoint in it.
        settings: settings of the sections evaluate and data to change, as :func:`etrm.config.with_settings` takes them.
        progress: the function that is called with the number of answered samples.

    Raises:
        EtrmError: see :func:`~etrm.training.scoring.opened_run.open_run`.
    """
    run = open_run(folder, settings)
    return Evaluated(**vars(run), report=_evaluate(run, run.model, ANSWERS, progress))


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
        folder: the run folder, or a checkpoint in it.
        settings: settings of the evaluate section to change, as :func:`etrm.config.with_settings` takes them.
        misleading: whether to score in ways that overstate the run, too.
        search: whether to search the context of each task, too.
        adapted: the part of the model to adapt to each task, too.
        progress: the function that is called with the answered samples, and when fitting has finished tasks.

    Raises:
        ConfigError: misleading scores are requested of a model without an encoder, or the model has nothing that
            could be searched or adapted.
        EtrmError: see :func:`evaluate_run`.
    """
    if misleading:
        _check_encoder(folder)
    found = evaluate_run(folder, settings, progress)
    config, held_out = found.config, found.held_out
    others = evaluate_baselines(held_out, config.data)
    others[UNTRAINED] = _evaluate(found, _build_untrained(found), UNTRAINED, progress)
    overstated = score_misleadingly(found) if misleading else {}  # before what Ctrl-C may end
    fitted = Fitted({})
    if search or adapted is not None:
        fitted = fit_to_tasks(
            found.model, config, held_out, found.trained, search=search, part=adapted, progress=progress
        ).score()
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
    model = read_config(split_checkpoint(folder)[0]).model
    if not model.has_encoder:
        raise ConfigError(
            "evaluate.misleading-without-encoder",
            "a model that looks tasks up by their ids cannot answer demonstration pairs",
            got=f"model.variant {model.variant!r}",
            allowed="a variant with an encoder",
            next_step=f"etrm evaluate {shlex.quote(str(folder))}",
        )


def _evaluate(run: OpenedRun, model: Variant, work: str, progress: OnProgress) -> EvaluationReport:
    """Evaluate a model on the tasks of a run."""
    config = run.config
    total = config.evaluate.augmentations * sum(len(task.tests) for task in run.held_out)
    predictor = with_progress(
        make_predictor(model, config.evaluate), lambda done: progress(work, done, total)
    )
    return evaluate_tasks(build_recipe(config), predictor, run.held_out, config, run.trained)


def _build_untrained(found: Evaluated) -> Variant:
    """The model of a run with weights drawn from the seed of the run, so that every evaluation scores the same ones."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(found.config.train.seed)
        untrained = build_variant(found.config.model, puzzles=_puzzles(found.model))
    return to_device(untrained, found.model.device).eval()


def _puzzles(model: Variant) -> int:
    return 0 if model.puzzle_table is None else len(model.puzzle_table.weights)
