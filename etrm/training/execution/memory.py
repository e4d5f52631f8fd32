"""Explains that a run or a step needs more memory than there is, and names the settings that help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from etrm.config import TrainConfig
from etrm.errors import TrainingError


@contextmanager
def explain_shortage(train: TrainConfig, rows: int) -> Iterator[None]:
    """A context around one step, in which a shortage of memory is an error that names the settings that need less.

    Args:
        train: the settings of the run.
        rows: the number of rows of this process in a step.

    Raises:
        TrainingError: the step does not fit.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        part = -(-rows // train.accumulate)
        remedies = []
        if not train.recompute:
            remedies.append("--set train.recompute=true")
        if part > 1 and not train.cuda_graphs:  # which cannot replay several parts
            remedies.append(f"--set train.accumulate={_next_divisor(rows, train.accumulate)}")
        if part > 1:
            remedies.append("the batch size that etrm train --find-batch-size prints")
        if not remedies:
            remedies.append("a smaller model.hidden_size or data.max_side")
        lines = str(error).splitlines() or [""]
        raise TrainingError(
            "train.out-of-memory",
            f"there is no memory for {part} rows at a time",
            got=lines[0],
            allowed="fewer rows at a time, which give the same numbers, or activations that are computed again",
            next_step=" or ".join(remedies),
        ) from error


@contextmanager
def explain_shortage_at_start() -> Iterator[None]:
    """A context around the construction of a run, in which a shortage of memory is an error that names settings.

    Raises:
        TrainingError: the weights, or the state of the rows of a batch, do not fit.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError) as error:
        if not is_shortage(error):
            raise
        raise TrainingError(
            "train.out-of-memory",
            "there is no memory for the model and the rows of a batch",
            got=(str(error).splitlines() or [""])[0],
            next_step="use a smaller train.batch_size, model.hidden_size or data.max_side",
        ) from error


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory could not be allocated. Some errors have no class of their own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, TrainingError):
        return error.code == "train.out-of-memory"
    return isinstance(error, RuntimeError | OverflowError) and any(
        words in str(error) for words in _TOO_LARGE
    )


_TOO_LARGE = (
    "can't allocate memory",
    "Storage size calculation overflowed",
    "index-sized integer",
    "too large to convert to C",
)
"""Words of the errors of torch and Python for more memory than the host has, or than any host can have."""


def _next_divisor(rows: int, parts: int) -> int:
    """The smallest larger number of equal parts."""
    return next(number for number in range(parts + 1, rows + 1) if rows % number == 0)
