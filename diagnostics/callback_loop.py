"""A monitor in the training loop of a framework: the common part of the callbacks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from diagnostics.errors import NothingRecorded
from diagnostics.findings import Finding, Severity
from diagnostics.monitor import Monitor
from diagnostics.report.text import to_text
from diagnostics.step_log import StepLog
from diagnostics.step_sinks import StepSink

_log = logging.getLogger("diagnostics")


class LoopMonitor:
    """Opens and closes the steps of a monitor from separate calls, logs them, and reports findings at the end.

    Args:
        log: File for a `StepLog`, or an object that takes the steps, as `TensorBoardLog`.
        options: Arguments of `Monitor`.
    """

    def __init__(self, log: str | Path | StepSink | None = None, **options: Any) -> None:
        # callbacks open and close a step apart, so that no context of the framework may lie across its end
        self._log, self._options = log, {"operations": False} | options
        self._run, self._step = ExitStack(), ExitStack()
        self._steps: StepSink | None = None
        self._monitor: Monitor | None = None

    @property
    def monitor(self) -> Monitor:
        """The monitor of the latest training.

        Raises:
            LookupError: Training has not begun.
        """
        if self._monitor is None:
            raise NothingRecorded("loop.not-begun", "there is no monitor before training begins")
        return self._monitor

    def begin(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Make the monitor; at the start of training, when the optimisers exist."""
        self.end()
        self._monitor = self._run.enter_context(Monitor(model, optimizers, **self._options))
        log = self._log
        self._steps = self._run.enter_context(StepLog(log)) if isinstance(log, (str, Path)) else log

    def open(self, samples: int) -> None:
        """Begin a step, before its forward pass."""
        self._step.enter_context(self.monitor.step(samples=samples))

    def close(self) -> None:
        """End the step that is open, if one is."""
        self._step.close()
        if self._steps is not None and self.monitor.history:
            self._steps.append(self.monitor.history[-1])

    def drop(self) -> None:
        """Forget the step that is open, if one is."""
        broken = InterruptedError("training broke off in the step: it is not recorded")
        self._step.__exit__(InterruptedError, broken, None)

    def end(self) -> None:
        """Remove the hooks and close the file; a second call does nothing."""
        self.drop()
        self._run.close()

    def report(self) -> list[Finding]:
        """Log the findings above a note as a warning of the logger `diagnostics`."""
        found = [finding for finding in self.monitor.findings() if finding.severity > Severity.NOTE]
        if found:
            _log.warning("%d findings\n%s", len(found), to_text(found))
        return found
