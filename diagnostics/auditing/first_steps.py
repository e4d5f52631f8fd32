"""The operations of three of the first steps that a monitor records: it judges them as an audit does, and costs nothing
afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.auditing.observed_step import ObservedStep, noting
from diagnostics.auditing.operation_trace import SKIPPED, OperationTrace, trace_operations
from diagnostics.auditing.probes.data_checks import check_seen_data
from diagnostics.auditing.probes.loss_checks import check_arrived
from diagnostics.auditing.probes.operation_checks import check_operations
from diagnostics.auditing.probes.probe import explain_by_probes
from diagnostics.auditing.probes.response_probe import check_draws
from diagnostics.auditing.probes.unit_checks import check_units
from diagnostics.findings import Finding
from diagnostics.recording.calls.module_graph import Flow

STEPS = (1, 4, 9)
"""Recorded steps whose operations are recorded too, counted from 0: rewards and curricula differ by then."""
_MOST_OPERATIONS = 20_000  # a second of one step
_MOST_ELEMENTS = 2**24
"""Elements of one result, 64 MB: a trace keeps losses, with their inputs, until the last of the steps."""


class FirstSteps:
    """Records the operations of `STEPS`, and judges them once.

    A step that is too large, that runs on several devices or in compiled code, or that a recording cannot follow, ends
    it; the training continues as without it.

    Args:
        model: The model.
        owner: Function full name of a module -> the innermost watched module that contains it.
    """

    def __init__(self, model: nn.Module, owner: Callable[[str], str]) -> None:
        self._model, self._owner = model, owner
        self._seen = 0  # recorded steps that began
        self._steps: list[ObservedStep] = []
        self._samples: set[int] = set()
        self._found: list[Finding] = []
        self._open = not any(_is_compiled(module) for module in model.modules())

    @contextmanager
    def watch(self, samples: int) -> Iterator[None]:
        """Surrounds one recorded step."""
        number, self._seen = self._seen, self._seen + 1
        if not self._open or number not in STEPS:
            yield
            return
        trace = _BoundedTrace()
        with trace_operations(self._model, trace), noting(self._model) as noted:
            yield
        seen = {name: noted[name] for name in ("looked_up", "inputs") if name in noted}
        self._steps.append(ObservedStep(None, torch.zeros(()), trace, **seen))
        self._samples.add(samples)
        if trace.ended:
            self._end()
        elif number == STEPS[-1]:
            self._judge()
            self._end()

    def _end(self) -> None:
        self._open = False
        self._steps.clear()

    def _judge(self) -> None:
        if len(self._samples) > 1 or len(self._steps) < len(STEPS):
            return
        traces = [each.trace for each in self._steps]
        try:
            self._found = [
                *check_operations(traces, self._samples.pop(), self._owner),
                *check_draws(traces, self._owner),
                *check_units(traces, self._owner),
                *check_arrived(traces, self._owner),
                *check_seen_data(self._model, self._steps, self._owner),
            ]
        except Exception:  # noqa: BLE001 - what cannot be judged must not end the training
            self._found = []

    def explain(self, found: Sequence[Finding], into: Mapping[str, frozenset[str]]) -> list[Finding]:
        """The findings of a monitor with those in the operations, which hold what follows from them.

        Args:
            into: Watched module -> those that feed it directly.
        """
        flow = Flow()
        flow.replace(into)
        return explain_by_probes(found, self._found, flow)


class _BoundedTrace(OperationTrace):
    """A trace that lets everything pass once it has seen too much; it leaves out what the toolkit calls.

    Attributes:
        ended: Whether it has.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ended = False
        self._count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function, and note it where the user called it."""
        if self.ended or _is_own(sys._getframe(1)):
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    def _note(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        self._count += 1
        large = isinstance(result, Tensor) and (result.numel() > _MOST_ELEMENTS or _is_captured(result))
        if (
            large
            or self._count > _MOST_OPERATIONS
            or torch._C._functorch.peek_interpreter_stack() is not None
        ):
            self.ended = True
            return
        try:
            super()._note(func, name, args, kwargs, result)
        except Exception:  # noqa: BLE001 - the same
            self.ended = True


def _is_captured(result: Tensor) -> bool:
    """Whether a graph of a GPU is captured, in which nothing may be read."""
    return result.is_cuda and torch.cuda.is_current_stream_capturing()


def _is_own(frame: FrameType | None) -> bool:
    """Whether the innermost frame outside of torch is the toolkit's."""
    torchs, own = SKIPPED
    while frame is not None and frame.f_code.co_filename.startswith((torchs, "<")):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(own)


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
