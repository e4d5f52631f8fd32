"""Watches the training of a LightningModule; needs the package `lightning`.

monitor = LightningCallback(watch=["encoder", "core"], log="steps.jsonl")
Trainer(callbacks=[monitor]).fit(module, loader)
print(to_text(monitor.findings()))
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from diagnostics.auditing.sample_counts import guess_samples
from diagnostics.callback_loop import LoopMonitor
from diagnostics.findings import Finding
from diagnostics.monitor import Monitor
from diagnostics.step_sinks import StepSink


class LightningCallback(Callback):
    """One monitored step per batch, also where gradients are accumulated over several.

    Findings above a note are logged as a warning of the logger `diagnostics` when training ends.

    Args:
        samples: Samples in the loss of a batch; by default the most usual leading size of its tensors.
        log: File for a `StepLog`, or an object that takes the steps, as `TensorBoardLog`.
        options: Arguments of `Monitor`; module names are those in the LightningModule.
    """

    def __init__(
        self,
        samples: Callable[[Any], int] = guess_samples,
        log: str | Path | StepSink | None = None,
        **options: Any,
    ) -> None:
        self._samples = samples
        self._loop = LoopMonitor(log, **options)

    @property
    def monitor(self) -> Monitor:
        """The monitor of the latest `fit`."""
        return self._loop.monitor

    def findings(self, **choice: Any) -> list[Finding]:
        """`Monitor.findings`."""
        return self.monitor.findings(**choice)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The optimisers exist now."""
        self._loop.begin(pl_module, trainer.optimizers)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Before training_step."""
        self._loop.open(self._samples(batch))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the optimiser's step."""
        self._loop.close()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the findings."""
        self._loop.report()
        self._loop.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._loop.end()


DiagnosticsCallback = LightningCallback
"""Earlier name of `LightningCallback`."""
