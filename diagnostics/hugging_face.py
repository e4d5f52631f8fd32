"""Watches a `transformers.Trainer`; needs the package `transformers`.

monitor = TransformersCallback(watch=["bert.encoder.layer"], log="steps.jsonl")
Trainer(model, arguments, train_dataset=data, callbacks=[monitor]).train()
print(to_text(monitor.findings()))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from diagnostics.auditing.sample_counts import guess_samples
from diagnostics.callback_loop import LoopMonitor
from diagnostics.findings import Finding
from diagnostics.monitor import Monitor
from diagnostics.step_sinks import StepSink


class TransformersCallback(TrainerCallback):
    """One monitored step per batch, also where gradients are accumulated over several.

    A callback is not shown the batch: the step opens, and its samples are counted, when the model is called.
    Findings above a note are logged as a warning of the logger `diagnostics` when training ends.

    Args:
        log: File for a `StepLog`, or an object that takes the steps, as `TensorBoardLog`.
        samples: Samples in the loss of a batch, given the keyword arguments of the model; by default the most usual
            leading size of its tensors.
        options: Arguments of `Monitor`.
    """

    def __init__(
        self,
        log: str | Path | StepSink | None = None,
        samples: Callable[[Mapping[str, Any]], int] | None = None,
        **options: Any,
    ) -> None:
        self._samples = samples
        self._loop = LoopMonitor(log, **options)
        self._hook: RemovableHandle | None = None
        self._expecting = False

    @property
    def monitor(self) -> Monitor:
        """The monitor of the latest `train`."""
        return self._loop.monitor

    def findings(self, **choice: Any) -> list[Finding]:
        """`Monitor.findings`."""
        return self.monitor.findings(**choice)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """The optimiser exists now; accelerate hands it over wrapped."""
        model: nn.Module = given["model"]
        self._unhook()  # of a training that broke off: there is no call for that
        self._loop.begin(model, [getattr(given["optimizer"], "optimizer", given["optimizer"])])
        self._hook = model.register_forward_pre_hook(self._before_forward, with_kwargs=True)

    def _before_forward(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._expecting:  # evaluation calls the model too
            self._expecting = False
            samples = guess_samples((*args, kwargs)) if self._samples is None else self._samples(kwargs)
            self._loop.open(samples)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Before the first batch of an update."""
        self._expecting = True

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """After a batch whose gradients are accumulated; another follows."""
        self._loop.close()
        self._expecting = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """After the update."""
        self._loop.close()
        self._expecting = False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Report the findings."""
        self._loop.report()
        self._unhook()

    def _unhook(self) -> None:
        self._expecting = False
        self._loop.end()
        if self._hook is not None:
            self._hook.remove()


DiagnosticsCallback = TransformersCallback
"""Earlier name of `TransformersCallback`."""
