"""Explains that a step needs more memory than the device has, and names the settings that help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from etrm.config import TrainConfig
from etrm.errors import TrainingError


@contextmanager
def explain_shortage(train: TrainConfig, rows: int) -> Iterator[None]:
    """A context around one step, in which a device without memory is an error that names the settings that need less.

    Args:
        train: the settings of the run.
        rows: the number of rows of this process in a step.

    Raises:
        TrainingError: the step does not fit.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        part = -(-rows // train.accumulate)
        settings = []
        if not train.recompute:
            settings.append("--set train.recompute=true")
        if part > 1:
            settings.append(f"--set train.accumulate={_next_divisor(train.batch_size, train.accumulate)}")
        if not settings:
            settings.append("a smaller model.hidden_size or data.max_side")
        lines = str(error).splitlines() or [""]
        raise TrainingError(
            "train.out-of-memory",
            f"the device has no memory for {part} rows at a time",
            got=lines[0],
            allowed="fewer rows at a time, which give the same numbers, or activations that are computed again",
            next_step=" or ".join(settings),
        ) from error


def _next_divisor(rows: int, parts: int) -> int:
    """The smallest larger number of equal parts."""
    return next(number for number in range(parts + 1, rows + 1) if rows % number == 0)
