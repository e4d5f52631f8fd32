"""The operations of three of the first steps that a monitor records: it judges them as an audit does, and costs nothing
afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.auditing.observed_step import ObservedStep, noting
from diagnostics.auditing.probes.data_checks import check_seen_data
from diagnostics.auditing.probes.next_tokens import check_unmasked
from diagnostics.auditing.probes.operations.bookkeeping import (
    fold_own_copies,
)
from diagnostics.auditing.probes.operations.branch_checks import check_branches, without_idle
from diagnostics.auditing.probes.operations.mask_checks import fold_masked
from diagnostics.auditing.probes.probe import explain_by_probes
from diagnostics.auditing.probes.recurrent_checks import check_recurrent
from diagnostics.auditing.trace_checks import check_traces
from diagnostics.auditing.tracing.lowest_mode import LowestMode
from diagnostics.auditing.tracing.operation_trace import OperationTrace, trace_operations
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.recording.calls.callers import LIBRARIES
from diagnostics.recording.calls.module_graph import Flow
from diagnostics.recording.tensors import is_captured, is_transformed
from diagnostics.rules.families.not_run import (
    COMPILED_CODE,
    RECORDING_FAILED,
    SAMPLES_VARY,
    STEP_RAISED,
    STEP_TOO_LARGE,
    TRANSFORMED_CODE,
)

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

    Attributes:
        others: Modules outside of the model whose calls are recorded too, by name.
        unfollowed: Why there is nothing to judge, None as long as nothing prevents it.
    """

    def __init__(self, model: nn.Module, owner: Callable[[str], str]) -> None:
        self._model, self._owner = model, owner
        self.others: Mapping[str, nn.Module] = {}
        self._seen = 0  # recorded steps that began
        self._steps: list[ObservedStep] = []
        self._samples: set[int] = set()
        self._found: list[Finding] = []
        compiled = any(map(_is_compiled, model.modules())) or isinstance(model, torch.jit.ScriptModule)
        self.unfollowed: Cause | None = COMPILED_CODE if compiled else None
        self._open = not compiled
        self._compiled_before = _compiled_frames()

    @contextmanager
    def watch(self, samples: int) -> Iterator[None]:
        """Surrounds one recorded step."""
        number, self._seen = self._seen, self._seen + 1
        if not self._open or number not in STEPS:
            yield
            return
        if _compiled_frames() > self._compiled_before:  # what is called under a recording is compiled again
            self._end(COMPILED_CODE)
            yield
            return
        trace = _BoundedTrace()
        with ExitStack() as recording:
            try:
                recording.enter_context(trace_operations(self._model, trace, self.others))
                noted = recording.enter_context(noting(self._model))
            except Exception as error:  # noqa: BLE001 - what cannot be recorded must not end the training
                recording.close()
                self._end(RECORDING_FAILED.of(error=type(error).__name__))
                yield
                return
            yield
        seen = {name: noted[name] for name in ("looked_up", "inputs") if name in noted}
        self._steps.append(ObservedStep(None, torch.zeros(()), trace, **seen))
        self._samples.add(samples)
        if trace.ended is not None:
            self._end(trace.ended)
        elif number == STEPS[-1]:
            self._end(self._judge())

    def _end(self, reason: Cause | None) -> None:
        self._open, self.unfollowed = False, reason
        self._steps.clear()

    def _judge(self) -> Cause | None:
        """Judge the steps; the reason if that is not possible."""
        if len(self._steps) < len(STEPS):
            return STEP_RAISED
        if len(self._samples) > 1:
            return SAMPLES_VARY
        traces = [each.trace for each in self._steps]
        try:
            samples = self._samples.pop()
            self._found = [
                *check_traces(self._model, traces, samples, self._owner),
                *check_branches(traces, self._owner),
                *check_unmasked(self._steps),
                *check_recurrent(self._steps, self._owner),
                *check_seen_data(self._model, self._steps, self._owner),
            ]
        except Exception as error:  # noqa: BLE001 - what cannot be judged must not end the training
            return RECORDING_FAILED.of(error=type(error).__name__)
        return None

    def explain(self, found: Sequence[Finding], into: Mapping[str, frozenset[str]]) -> list[Finding]:
        """The findings of a monitor with those in the operations, which hold what follows from them.

        Args:
            into: Watched module -> those that feed it directly.
        """
        flow = Flow()
        flow.replace(into)
        own, checked = fold_masked(found, self._found)
        return fold_own_copies(without_idle(explain_by_probes(own, checked, flow)))


class _BoundedTrace(LowestMode, OperationTrace):
    """A trace that lets everything pass once it has seen too much; it leaves out what the toolkit calls.

    Attributes:
        ended: Why, None as long as it has not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ended: Cause | None = None
        self._count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function, and note it where the user called it."""
        if torch.compiler.is_dynamo_compiling() or self.ended is not None or _is_own(sys._getframe(1)):
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    def observe(self, note: Callable[..., None], *given: Any) -> None:
        """Note a call of a module; what cannot be noted must not end the training."""
        if self.ended is not None:
            return
        try:
            super().observe(note, *given)
        except Exception as error:  # noqa: BLE001 - the same
            self.ended = RECORDING_FAILED.of(error=type(error).__name__)

    def finish(self) -> None:
        """Compare the calls of the step; what cannot be compared must not end the training."""
        try:
            super().finish()
        except Exception as error:  # noqa: BLE001 - the same
            self.ended = RECORDING_FAILED.of(error=type(error).__name__)

    def _note(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        self._count += 1
        large = isinstance(result, Tensor) and result.numel() > _MOST_ELEMENTS
        if large or self._count > _MOST_OPERATIONS:
            self.ended = STEP_TOO_LARGE
            return
        if is_captured(result) or is_transformed():
            self.ended = TRANSFORMED_CODE
            return
        try:
            super()._note(func, name, args, kwargs, result)
        except Exception as error:  # noqa: BLE001 - the same
            self.ended = RECORDING_FAILED.of(error=type(error).__name__)


def _is_own(frame: FrameType | None) -> bool:
    """Whether the innermost frame outside of torch is the toolkit's."""
    torchs, own = LIBRARIES
    while frame is not None and frame.f_code.co_filename.startswith((torchs, "<")):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(own)


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def _compiled_frames() -> int:
    """How many functions torch.compile was given in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else int(dynamo.counters["frames"]["total"])
