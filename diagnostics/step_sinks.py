"""Steps as scalars for TensorBoard and Weights & Biases, by the interface of `StepLog`.

log = TensorBoardLog(SummaryWriter("runs"))
for batch in batches:
    with monitor.step(samples=len(batch)):
        ...
    log.append(monitor.history[-1])
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from diagnostics.records import Absent, StepScalars
from diagnostics.step_log import check_scalars


class StepSink(Protocol):
    """Anything that takes the steps of a monitor one after the other."""

    def append(self, record: StepScalars) -> None:
        """Take one step."""
        ...


class TensorBoardLog:
    """Writes every known number of a step to a writer.

    Args:
        writer: Anything with `add_scalar(tag, value, step)`, such as `torch.utils.tensorboard.SummaryWriter`.
        prefix: First part of the tags, `PREFIX/MODULE/NUMBER`.
    """

    def __init__(self, writer: Any, prefix: str = "diagnostics") -> None:
        self._writer, self._prefix = writer, prefix

    def append(self, record: StepScalars) -> None:
        """Write one step."""
        for tag, value in flatten(record, self._prefix).items():
            self._writer.add_scalar(tag, value, record.step)


class WandbLog:
    """Logs every known number of a step to a run of Weights & Biases, over a step axis of its own.

    Args:
        run: Anything with `log(values)`, such as the return value of `wandb.init()`.
        prefix: First part of the names, `PREFIX/MODULE/NUMBER`; the axis is `PREFIX/step`.
    """

    def __init__(self, run: Any, prefix: str = "diagnostics") -> None:
        self._run, self._prefix = run, prefix
        if hasattr(run, "define_metric"):  # the run's own steps are those of the user's log calls
            run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/step")

    def append(self, record: StepScalars) -> None:
        """Log one step."""
        self._run.log({**flatten(record, self._prefix), f"{self._prefix}/step": record.step})


def flatten(record: StepScalars, prefix: str) -> dict[str, float]:
    """The finite numbers of a step as `PREFIX/MODULE/NUMBER`, and its losses as `PREFIX/loss/TERM`.

    Raises:
        InvalidType: It is not the scalars of a step.
    """
    check_scalars(record)
    numbers = {
        f"{prefix}/{module}/{name}": value
        for module, scalars in record.modules.items()
        for name, value in scalars.items()
        if not isinstance(value, Absent)
    }
    numbers |= {f"{prefix}/loss/{name}".rstrip("/"): value for name, value in record.losses.items()}
    return {tag: float(value) for tag, value in numbers.items() if math.isfinite(value)}
