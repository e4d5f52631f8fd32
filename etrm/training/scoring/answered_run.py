"""Answers of a run to tasks whose outputs may be unknown, for a submission; nothing is scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from etrm.checkpoints.run_folder import read_config
from etrm.checkpoints.saved_steps import split_checkpoint
from etrm.config import AdaptedPart, Changes, Config, with_settings
from etrm.data import TaskSet, build_evaluation_samples
from etrm.evaluation import Candidates, Submitted, predict, rank_candidates, write_submission
from etrm.training.scoring.fitted_scores import OnProgress, fit_to_tasks
from etrm.training.scoring.opened_run import check_sections, open_run
from etrm.training.scoring.predictor import make_predictor
from etrm.training.task_sets import load_held_out_tasks, load_whole_set


@dataclass(frozen=True)
class AnsweredRun:
    """The answers of a run.

    Attributes:
        config: the config of the run, with the settings of the evaluation.
        step: the step of the checkpoint.
        held_out: the answered tasks.
        candidates: the answers of the last way of fitting that was requested, otherwise those without fitting.
        interrupted: whether Ctrl-C ended the fitting.
    """

    config: Config
    step: int
    held_out: TaskSet
    candidates: Candidates
    interrupted: bool = False


def find_unknown(folder: Path, settings: Changes) -> tuple[str, ...]:
    """Return the ids of the held-out tasks with an unknown test output, which cannot be scored.

    Args:
        folder: the run folder, or a checkpoint in it.
        settings: settings of the sections evaluate and data to change.

    Raises:
        EtrmError: there is no run, or no such tasks.
    """
    check_sections(settings)
    held_out = load_held_out_tasks(with_settings(read_config(split_checkpoint(folder)[0]), **settings))
    return tuple(task.id for task in held_out if any(pair.output is None for pair in task.tests))


def answer_run(
    folder: Path,
    settings: Changes,
    *,
    search: bool = False,
    adapted: AdaptedPart | None = None,
    progress: OnProgress = lambda work, done, total: None,
) -> AnsweredRun:
    """Answer the held-out tasks with a checkpoint of a run folder.

    Args:
        folder: the run folder, or a checkpoint in it.
        settings: settings of the sections evaluate and data to change.
        search: whether to search the context of each task.
        adapted: the part of the model to adapt to each task.
        progress: the function that is called when fitting has finished tasks.

    Raises:
        ConfigError: the model has nothing that could be searched or adapted.
        EtrmError: see :func:`~etrm.training.scoring.opened_run.open_run`.
    """
    run = open_run(folder, settings)
    # The control of a search serves only to compare scores.
    config, held_out = with_settings(run.config, evaluate={"search": {"control": False}}), run.held_out
    if search or adapted is not None:
        fitted = fit_to_tasks(
            run.model, config, held_out, run.trained, search=search, part=adapted, progress=progress
        )
        ranked = list(fitted.rank().values())
        return AnsweredRun(config, run.step, held_out, ranked[-1] if ranked else {}, fitted.interrupted)
    samples = build_evaluation_samples(
        held_out,
        config.data,
        config.evaluate.augmentations,
        config.train.seed,
        variant=config.model.variant,
        trained=None if config.model.has_encoder else run.trained,
    )
    answers = predict(samples, make_predictor(run.model, config.evaluate), config.evaluate.batch_size)
    return AnsweredRun(config, run.step, held_out, rank_candidates(held_out, answers))


def submit_answers(answered: AnsweredRun, file: Path) -> Submitted:
    """Write a Kaggle submission of the whole data set.

    Raises:
        DataError: the file cannot be written.
    """
    everything = load_whole_set(answered.config, answered.held_out)
    return write_submission(file, everything, answered.candidates, answered.config.data.max_side)
