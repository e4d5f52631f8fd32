"""The TRM decoder that H1 and the frozen-decoder experiment need: trained by the tool, and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from etrm.config import Config, with_overrides
from etrm.errors import FolderInUseError, Interrupted
from etrm.investigation import cache
from etrm.training import checkpoint as checkpoints
from etrm.training.trainer import train

AUGMENTATIONS = 4
"""Fixed augmentations per task of the TRM where the subject draws fresh ones, which a table cannot hold."""

TRAINING = (
    "train.optimizer=adamw",
    "train.batch_size=16",
    "train.lr=1e-3",
    "train.lr_min_ratio=0.1",
    "train.encoder_lr_scale=1",
    "train.weight_decay=0.1",
    "train.beta1=0.9",
    "train.beta2=0.95",
    "train.clip_norm=1.0",
    "train.ema_decay=0.99",
    "train.puzzle_lr=1e-2",
    "train.puzzle_weight_decay=0.1",
    "train.loss=stablemax",
    "train.q_halt_weight=0.5",
    "train.kl_weight=0",  # a puzzle table has no divergence
    "model.halt.max_steps=4",
    "model.halt.exploration=0.1",
)
"""How the decoder is trained whatever the subject's own settings, which are what is being judged."""


def trm_config(subject: Config, steps: int) -> Config:
    """A TRM on the subject's tasks and augmentations, with the subject's core."""
    augmentations = subject.data.augmentations
    if augmentations == "fresh":
        augmentations = AUGMENTATIONS
    return with_overrides(
        subject,
        (
            "preset=''",
            "model.variant=trm",
            "faults=[]",
            "train.decoder=none",
            "train.freeze_decoder_steps=0",
            "train.freeze_encoder_steps=0",
            f"data.augmentations={augmentations}",
            "data.queries=all",
            "train.seed=0",
            *TRAINING,
            f"train.steps={steps}",
            f"train.warmup_steps={min(40, steps // 10)}",
            "train.checkpoint_every=200",
            "monitor.enabled=false",
            "train.threads=1",  # two threads on busy cores wait for each other
        ),
    )


WAIT = 1.0
"""Seconds between two looks whether the other process has ended."""


def pretrained(config: Config, progress: Callable[[int, int], None], elsewhere: str = "") -> Path:
    """The run folder of a finished TRM of this config, trained now if it is not in the cache.

    Where another investigation is training it, this one waits and takes what comes out.

    Args:
        config: of the TRM.
        progress: called with steps done and steps in all.
        elsewhere: the machines that it is kept for, see :class:`etrm.investigation.launch.Launcher`.

    Raises:
        Interrupted: Ctrl-C; what was trained is kept and goes on next time.
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
    progress(steps, steps)
    return folder


def folder_of(config: Config, elsewhere: str = "") -> Path:
    """Where the TRM of this config is kept."""
    return cache.cache_folder() / "decoders" / cache.key(config, elsewhere)


def finished(config: Config, elsewhere: str = "") -> bool:
    """Whether it has been trained to its end."""
    found = checkpoints.saved(folder_of(config, elsewhere) / "checkpoints")
    return bool(found) and checkpoints.read(found[-1]).step >= config.train.steps
