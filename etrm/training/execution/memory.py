"""Explains that a step needs more memory than there is, and names the settings that help."""

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


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory could not be allocated. torch has no class for that of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _next_divisor(rows: int, parts: int) -> int:
    """The smallest larger number of equal parts."""
    return next(number for number in range(parts + 1, rows + 1) if rows % number == 0)
