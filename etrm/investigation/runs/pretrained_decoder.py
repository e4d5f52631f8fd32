"""The TRM decoder that H1 and the frozen-decoder experiment need: trained by the tool, and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.saved_steps import list_saved
from etrm.config import NO_CURRICULUM, Config, with_settings
from etrm.errors import CheckpointError, FolderInUseError, Interrupted
from etrm.investigation.runs import cache
from etrm.training.task_sets import list_stream_tasks
from etrm.training.trainer import train

AUGMENTATIONS = 4
"""Fixed augmentations per task of the TRM where the config draws fresh ones, which a table cannot hold."""

TRAINING: dict[str, Any] = {
    "optimizer": "adamw",
    "batch_size": 16,
    "lr": 1e-3,
    "lr_min_ratio": 0.1,
    "encoder_lr_scale": 1.0,
    "weight_decay": 0.1,
    "beta1": 0.9,
    "beta2": 0.95,
    "clip_norm": 1.0,
    "ema_decay": 0.99,
    "puzzle_lr": 1e-2,
    "puzzle_weight_decay": 0.1,
    "loss": "stablemax",
    "q_halt_weight": 0.5,
    "kl_weight": 0.0,  # a puzzle table has no divergence
}
"""How the decoder is trained whatever the config under test has, because its settings are being judged."""

LISTED_TASKS = 64
"""Tasks of the decoder of a run on a stream: enough for several batches."""


def trm_config(subject: Config, steps: int) -> Config:
    """A TRM on the tasks and augmentations of the config under test, with its core.

    A table of task ids needs tasks that return, so a stream is replaced by the first of its tasks.
    """
    augmentations = subject.data.augmentations
    listed = list_stream_tasks(subject, LISTED_TASKS) if subject.data.stream is not None else {}
    return with_settings(
        subject,
        preset="",
        data={
            "augmentations": AUGMENTATIONS if augmentations == "fresh" else augmentations,
            "queries": "all",
            **listed,
            **NO_CURRICULUM,
        },
        model={"variant": "trm", "halt": {"max_steps": 4, "exploration": 0.1}},
        train=TRAINING
        | {
            "steps": steps,
            "warmup_steps": min(40, steps // 10),
            "checkpoint_every": 200,
            "decoder": None,
            "freeze_decoder_steps": 0,
            "freeze_encoder_steps": 0,
            "seed": 0,
            "threads": 1,  # two threads on busy cores wait for each other
        },
        monitor={"enabled": False},
        evaluate={"every": None, "checkpoint": "newest"},  # a puzzle table has no rows for held-out tasks
        faults=(),
    )


class UnkeptDecoderError(CheckpointError):
    """A run of this tool did not keep its last step: the code under test is broken, and no folder or setting."""


WAIT = 1.0
"""Seconds between two looks whether the other process has ended."""


def pretrained(config: Config, progress: Callable[[int, int], None], elsewhere: str = "") -> Path:
    """The run folder of a finished TRM of this config, trained now if it is not in the cache.

    Where another investigation is training it, this one waits and takes what comes out.

    Args:
        config: the config of the TRM.
        progress: called with steps done and steps in all.
        elsewhere: the machines that it is kept for, see :class:`etrm.investigation.runs.launchers.Launcher`.

    Raises:
        Interrupted: the user pressed Ctrl-C; what was trained is kept and resumed next time.
        UnkeptDecoderError: the training ended without a checkpoint of its last step.
    """
    folder, steps = folder_of(config, elsewhere), config.train.steps
    folder.parent.mkdir(parents=True, exist_ok=True)
    while not finished(config, elsewhere):
        try:
            if not train(
                config, folder, resume=True, on_step=lambda trainer, _: progress(trainer.step, steps)
            ):
                raise Interrupted
        except FolderInUseError:
            time.sleep(WAIT)
            continue
        if not finished(config, elsewhere):
            raise UnkeptDecoderError(
                "decoder.not-kept",
                f"the TRM decoder was trained to its end, but the newest checkpoint in {folder} is an earlier one",
                allowed=f"a checkpoint of step {steps}, as every run leaves one of its last step",
                next_step="compare the code that writes and lists checkpoints with that of an unedited installation",
            )
    progress(steps, steps)
    return folder


def folder_of(config: Config, elsewhere: str = "") -> Path:
    """Where the TRM of this config is kept."""
    return cache.cache_folder() / "decoders" / cache.key(config, elsewhere)


def finished(config: Config, elsewhere: str = "") -> bool:
    """Whether it has been trained to its end."""
    found = list_saved(folder_of(config, elsewhere) / "checkpoints")
    return bool(found) and checkpoints.read(found[-1]).step >= config.train.steps
