"""Steps of a running program that are recorded, with the monitor of its models."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn
from torch.optim import Optimizer

from diagnostics.auditing.declarations import Declarations
from diagnostics.auditing.probes.late_changes import LateChanges
from diagnostics.callback_loop import LoopMonitor
from diagnostics.findings import Finding
from diagnostics.monitor import Monitor


class MonitoredSteps:
    """Opens, keeps and forgets steps of the latest monitor.

    Attributes:
        monitor: The latest monitor; None before the first.
        is_open: Whether a step is open.

    Args:
        declared: What the user declared of the models.
        options: Further arguments of `Monitor`.
    """

    def __init__(self, declared: Declarations, **options: Any) -> None:
        self._declared, self._options = declared, options
        self.monitor: Monitor | None = None
        self.is_open = False
        self._late = LateChanges([])
        self._loop, self._step = LoopMonitor(), ExitStack()

    @property
    def late(self) -> Sequence[Finding]:
        """Findings about gradients that are changed after the update."""
        return self._late.findings()

    def watch(self, model: nn.Module, watch: list[str] | None, optimizers: Sequence[Optimizer]) -> None:
        """Make a monitor; the one before ends."""
        self._late = LateChanges(optimizers)
        self._loop.end()
        self._loop = LoopMonitor(operations=None, **self._declared.options(model, watch), **self._options)
        self._loop.begin(model, optimizers)
        self.monitor = self._loop.monitor

    def open(self, samples: int) -> None:
        """A step begins, with that many samples."""
        self._loop.open(samples)
        self._step.enter_context(self._late.watch())
        self.is_open = True

    def close(self) -> None:
        """Keep the open step."""
        self.is_open = False
        self._step.close()
        self._loop.close()

    def drop(self) -> None:
        """Forget the open step, if one is."""
        self.is_open = False
        self._step.close()
        self._loop.drop()

    def end(self) -> None:
        """Forget the open step, and remove the hooks of the monitor."""
        self.drop()
        self._loop.end()
