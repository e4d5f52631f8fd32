"""Find the largest batch whose training steps fit into the memory of the device, by doing the steps."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from etrm.config import Config, with_settings
from etrm.device import pick_device
from etrm.errors import TrainingError
from etrm.training.execution.memory import explain_shortage, is_shortage
from etrm.training.execution.memory_meter import MemoryMeter, open_meter
from etrm.training.trainer import Trainer

SHARE = 0.9
"""The share of the memory that a step may take: rows that are drawn later may be larger than those that were tried."""
MOST_ROWS = 65_536
"""No recipe uses more rows; without a bound a toy model would be doubled for hours."""
LONGEST = 60.0
"""Seconds of a step after which no larger batch is tried: a CPU has memory for batches that it cannot compute."""
CLOSENESS = 16
"""The search ends when it knows the largest batch to one part in this number."""


@dataclass(frozen=True)
class BatchTrial:
    """What steps of one size took.

    Attributes:
        rows: the value of ``train.batch_size``.
        rows_per_second: the speed in the second steps of all buckets, loading included; None if they do not fit.
        step_seconds: the seconds of the slowest of these steps; 0 if they do not fit.
        peak: the largest memory of the process in bytes; None if an allocation failed.
    """

    rows: int
    rows_per_second: float | None
    step_seconds: float
    peak: int | None

    @property
    def fits(self) -> bool:
        """Whether the steps were done within the share of the memory."""
        return self.rows_per_second is not None


@dataclass(frozen=True)
class BatchSearch:
    """The sizes that were tried, in this order.

    Attributes:
        trials: the sizes.
        limit: the bytes that a step might take.
    """

    trials: tuple[BatchTrial, ...]
    limit: int

    @property
    def largest(self) -> BatchTrial:
        """The largest batch that fits."""
        return max((trial for trial in self.trials if trial.fits), key=lambda trial: trial.rows)

    @property
    def bounded_by_memory(self) -> bool:
        """Whether a larger batch was tried and did not fit."""
        return any(not trial.fits for trial in self.trials)


def find_batch_size(
    config: Config,
    meter: MemoryMeter | None = None,
    on_try: Callable[[int], None] = lambda rows: None,
) -> BatchSearch:
    """Double the batch until it does not fit, then bisect. Nothing is written.

    Args:
        config: the settings of the run; ``train.batch_size`` is replaced.
        meter: a meter of the memory; None for that of the device.
        on_try: called with each number of rows before its steps.

    Raises:
        TrainingError: not even the smallest batch fits, which has one row per part of a step.
        ConfigError: the memory cannot be measured, or the config cannot be used.
    """
    meter = meter or open_meter(pick_device(config.train.device))
    limit = int(SHARE * meter.limit)
    unit = config.train.accumulate
    trials: list[BatchTrial] = []

    def attempt(rows: int) -> BatchTrial:
        on_try(rows)
        trials.append(_try_rows(config, rows, meter, limit))
        return trials[-1]

    fits, fails = 0, unit
    while (trial := attempt(fails)).fits:
        fits, fails = fails, 2 * fails
        if trial.step_seconds > LONGEST or fails > MOST_ROWS:
            return BatchSearch(tuple(trials), limit)
    if not fits:
        with explain_shortage(with_settings(config, train={"batch_size": unit}).train, unit):
            raise torch.OutOfMemoryError(f"a step may take {limit // 2**20} MiB")
    while fails - fits > max(unit, fits // CLOSENESS):
        middle = unit * ((fits + fails) // (2 * unit))
        if attempt(middle).fits:
            fits = middle
        else:
            fails = middle
    return BatchSearch(tuple(trials), limit)


def _try_rows(config: Config, rows: int, meter: MemoryMeter, limit: int) -> BatchTrial:
    """Do two steps of every bucket in which all weights are trained."""
    trained = {"batch_size": rows, "freeze_decoder_steps": 0, "freeze_encoder_steps": 0}
    # Worker processes would use memory of their own and would have to be stopped.
    chosen = with_settings(config, train=trained, data={"workers": 0})
    seconds: list[float] | None = None
    gc.collect()  # the tensors of the last size
    with meter.bounded():
        try:
            seconds = _time_steps(chosen)
        except (RuntimeError, MemoryError, TrainingError) as error:
            if not is_shortage(error):
                raise
        peak = meter.read_peak()
    if seconds is None:
        return BatchTrial(rows, None, 0.0, None)
    if peak > limit:
        return BatchTrial(rows, None, 0.0, peak)
    return BatchTrial(rows, rows * len(seconds) / sum(seconds), max(seconds), peak)


def _time_steps(config: Config) -> list[float]:
    """Return the seconds of the second step of every bucket that the run meets."""
    trainer = Trainer(config)
    seconds = []
    for step in _first_steps(trainer):
        for _ in range(2):
            trainer.state.step = step
            began = time.perf_counter()
            trainer.train_step()
            taken = time.perf_counter() - began
        seconds.append(taken)
    return seconds


def _first_steps(trainer: Trainer) -> list[int]:
    """The first step of every bucket that the run meets."""
    firsts: dict[int, int] = {}
    for step in range(trainer.config.train.steps):
        bucket = trainer.episodes.bucket_at(step, trainer.model.steps_per_turn)
        firsts.setdefault(bucket, step)
        if len(firsts) == trainer.episodes.buckets:
            break
    return list(firsts.values())
