"""A run that is opened for an evaluation: its model, and the tasks to answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from etrm.checkpoints.run_folder import read_config
from etrm.checkpoints.saved_steps import split_checkpoint
from etrm.config import Changes, Config, with_settings
from etrm.data import TaskSet, check_leakage
from etrm.errors import ConfigError
from etrm.model.variant import Variant
from etrm.training.scoring.predictor import load_model
from etrm.training.task_sets import load_held_out_tasks

OWN_SECTIONS = frozenset({"evaluate", "data"})
"""Sections of the settings that an evaluation reads; the others are those of the training."""


@dataclass(frozen=True)
class OpenedRun:
    """A run with the tasks to answer.

    Attributes:
        config: the config of the run, with the settings of the evaluation.
        step: the step of the checkpoint.
        weights: the kind of weights, ema or raw.
        model: the model, in evaluation mode.
        trained: the tasks that it was trained on.
        held_out: the tasks to answer.
    """

    config: Config
    step: int
    weights: str
    model: Variant
    trained: TaskSet
    held_out: TaskSet


def open_run(folder: Path, settings: Changes) -> OpenedRun:
    """Load the newest checkpoint of a run folder, or its best one as ``evaluate.checkpoint`` says, and the tasks.

    Args:
        folder: the run folder, or a checkpoint in it, which then is the one that is loaded.
        settings: settings of the sections evaluate and data to change, as :func:`etrm.config.with_settings` takes them.

    Raises:
        ConfigError: a setting is of another section, which was decided in training, or would number the rows of a
            puzzle table in another way than training did.
        LeakageError: an evaluation task was trained on and is not in ``evaluate.allow_trained``.
        EtrmError: there is no run, no whole checkpoint, or no such tasks.
    """
    check_sections(settings)
    chosen = with_settings(read_config(split_checkpoint(folder)[0]), **settings).evaluate
    weights = chosen.weights
    model, trained_with, trained, step = load_model(folder, weights, which=chosen.checkpoint)
    config = with_settings(trained_with, **settings)
    rows = trained_with.data.augmentations
    if not config.model.has_encoder and config.data.augmentations != rows:
        raise ConfigError(
            "evaluate.other-puzzle-rows",
            "data.augmentations cannot be changed: the table of task ids has this number of rows per task",
            got=f"data.augmentations {config.data.augmentations}",
            allowed=f"data.augmentations {rows}",
            next_step=f"--set evaluate.augmentations=N, the number of votes, of at most {rows}",
        )
    held_out = load_held_out_tasks(config)
    if "all" not in config.evaluate.allow_trained:
        check_leakage(trained, held_out, config.evaluate.allow_trained)
    return OpenedRun(config, step, weights, model, trained, held_out)


def check_sections(settings: Changes) -> None:
    """Refuse settings that were decided in training.

    Raises:
        ConfigError: a setting is not of :data:`OWN_SECTIONS`.
    """
    others = sorted(settings.keys() - OWN_SECTIONS)
    if others:
        raise ConfigError(
            "evaluate.other-section",
            f"the section {others[0]} cannot be changed: it was decided when the run was trained",
            got=", ".join(others),
            allowed="settings that begin with evaluate. or data.",
            next_step="etrm evaluate RUN --set evaluate.subset=training, or train another run",
        )
