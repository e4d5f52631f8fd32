"""Repeats steps of an audit with every operation recorded.

They show where a number that is not finite arose, and what losses receive.

Nothing stays changed. A step that cannot be repeated under the recording, as one of a compiled model, gives nothing.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.auditing.tracing.operation_trace import OperationTrace, trace_operations
from diagnostics.auditing.tracing.recorded_calls import Operation
from diagnostics.recording.calls.callers import is_users
from diagnostics.recording.random_numbers import RandomState
from diagnostics.recording.updates.watched_parameters import has_values
from diagnostics.testing.trials import arrivals, untouched

_RETURNED = re.compile(r"Function '(\w+?)(?:Backward\d*)?' returned nan values")
_LINE = re.compile(r'File "([^"]+)", line (\d+)')


@dataclass(frozen=True)
class Broken:
    """The first number of a step that is not finite: in which pass, by which operation, and what modules feed it."""

    phase: str
    operation: Operation
    sources: tuple[str, ...] = ()


class StepStart:
    """What a step began with: weights, buffers, gradients and random numbers."""

    def __init__(self, model: nn.Module, batch: Any, number: int) -> None:
        self.batch, self.number = batch, number
        tensors = [*model.parameters(), *model.buffers()]
        self._values = [(tensor, tensor.detach().clone()) for tensor in tensors if has_values(tensor)]
        self._random = RandomState()

    @torch.no_grad()
    def restore(self) -> None:
        """Put the values back, in place."""
        for tensor, value in self._values:
            if tensor.shape == value.shape:
                tensor.copy_(value)
        self._random.restore()

    @torch.no_grad()
    def restore_buffers(self) -> None:
        """Put the values of buffers back, in place."""
        for tensor, value in self._values:
            if not isinstance(tensor, nn.Parameter) and tensor.shape == value.shape:
                tensor.copy_(value)


def find_broken(
    model: nn.Module, step: Callable[[nn.Module, Any], Any], start: StepStart, optimizers: Sequence[Optimizer]
) -> Broken | None:
    """The operation that made the first number of a step that is not finite; None where it is not found."""
    with untouched(model, optimizers, keep_gradients=True):
        start.restore()
        with trace_operations(model) as trace:
            backward = _run_backward(model, step, start.batch)
    broken = trace.nonfinite.operation
    forward = None if broken is None else Broken("forward", broken, trace.nonfinite.fed_by)
    if backward is None or trace.loss_broken:
        return forward  # or what Python does not call
    return Broken("backward", backward)


def trace_step(
    model: nn.Module, step: Callable[[nn.Module, Any], Any], batch: Any, optimizers: Sequence[Optimizer]
) -> OperationTrace | None:
    """The operations of one step, None where it cannot run under the recording."""
    with untouched(model, optimizers, keep_gradients=True), trace_operations(model) as trace:
        try:
            trace.added.end(step(model, batch))
        except Exception:  # noqa: BLE001 - the step ran before without the recording: it is this that it cannot do with
            return None
    return trace


def trace_training_step(
    model: nn.Module, step: Callable[[nn.Module, Any], Any], batch: Any, optimizers: Sequence[Optimizer]
) -> OperationTrace | None:
    """The operations of one step with its backward pass, None where it cannot run under the recording."""
    with (
        untouched(model, optimizers, keep_gradients=True),
        trace_operations(model) as trace,
        arrivals(model) as arrived,
    ):
        try:
            loss = step(model, batch)
            if isinstance(loss, Tensor) and loss.requires_grad and not arrived:
                loss.backward()
        except Exception:  # noqa: BLE001 - the same
            return None
    return trace


def _run_backward(model: nn.Module, step: Callable[[nn.Module, Any], Any], batch: Any) -> Operation | None:
    """Run a step with torch's anomaly detection; the operation whose gradient is NaN."""
    found: re.Match[str] | None = None
    with _anomalies() as heard, arrivals(model) as arrived:
        try:
            loss = step(model, batch)
            if isinstance(loss, Tensor) and loss.requires_grad and not arrived:
                loss.backward()
        except RuntimeError as error:
            found = _RETURNED.search(str(error))
            if found is None:
                raise
    return None if found is None else Operation(_plain(found[1]), "", _users_line(heard))


@contextmanager
def _anomalies() -> Iterator[list[str]]:
    """Texts of torch's warnings, which have the lines that called the function forward."""
    heard: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with torch.autograd.detect_anomaly(check_nan=True):
            try:
                yield heard
            finally:
                heard += [str(each.message) for each in caught]


def _plain(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _users_line(texts: Sequence[str]) -> str:
    lines = [match for text in texts for match in _LINE.findall(text) if is_users(match[0])]
    return f"{Path(lines[-1][0]).name}:{lines[-1][1]}" if lines else ""
