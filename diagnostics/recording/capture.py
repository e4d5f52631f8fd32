"""Watches the forward calls of one step, and the gradients that come back to their outputs.

A hook on an output tensor receives the gradient with respect to the value that the module returned,
also where that tensor is later changed in place. A view is the exception: once it or its base is changed
in place, torch builds it a new history and the hook is never called, so such a call is marked as unknown.
A module called again inside the backward pass is a recomputation by checkpointing: the non-reentrant kind
brings its gradient to the first call and the repetition is left out; the reentrant kind brings it to the
repetition, which is kept and marked.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.causes import Cause
from diagnostics.errors import InvalidType, ToolkitError
from diagnostics.recording import unknown_rows
from diagnostics.recording.arrivals import WHOLE_LOSS, Arrivals
from diagnostics.recording.module_graph import Flow
from diagnostics.recording.process_group import NO_STATS, ModuleFacts, OutputSums
from diagnostics.recording.readout import Readout
from diagnostics.records import Absent, CallRecord

RowsFunction = Callable[[tuple[Any, ...], dict[str, Any], Any], Tensor]
"""(args, kwargs, output) of a module's forward -> the sample that each leading row of the output belongs to.

Of shape (rows,); or of two and more dimensions where samples are not first: (T, B) for a sequence-first layout.
"""

_CHECKPOINT = str(Path("torch", "utils", "checkpoint.py"))
_STATS_WIDTH = 4096  # elements of a row: a share of 1e-3 is then measured to a few percent, at a small cost
_NEVER = Arrivals()  # of a term that did not come to a call
_NOT_RAW = Absent("gradient flows into its inputs, or samples are not their first dimension", "not-raw")


class Call:
    """One forward call while the step runs."""

    def __init__(self, index: Tensor | None, recomputed: bool) -> None:
        self.grad_enabled = torch.is_grad_enabled()
        self.recomputed = recomputed
        self.index = index
        self.requires_grad = False
        self.rows: int | Absent = Absent.because(unknown_rows.NO_FLOATING_OUTPUT)
        self.arrivals = {WHOLE_LOSS: Arrivals()}  # and one per term of the loss that reached it
        self.unmatched_reason: Cause | None = None
        self.unknown: Cause | None = None  # why gradient may have come without being seen
        self.views: list[tuple[Tensor, int]] = []  # alias of a view that was returned, and its version then
        self.checkpointed = not self.grad_enabled and not recomputed and in_reentrant_checkpoint()
        self.passes: set[int] = set()
        self.raw = False  # no input requires gradient, or is what an earlier call of the module returned
        self.returned: list[int] = []  # addresses of its outputs
        self.blind = False  # an output lost its hook
        self.key = -1  # of the index

    @property
    def reached(self) -> bool:
        """Whether the backward pass of the step came to an output."""
        return self.arrivals[WHOLE_LOSS].reached

    def watch(self, tensor: Tensor, matched: bool, rows: int, capture: Capture) -> None:
        """Note the gradient that arrives at `tensor`."""

        def note(gradient: Tensor | None) -> None:
            if gradient is None or capture.closed or gradient.numel() == 0:
                return
            if capture.term == WHOLE_LOSS:
                capture.announce_backward()
            if capture.term == WHOLE_LOSS:
                self.passes.add(torch._C._current_graph_task_id())
            try:
                self.arrivals.setdefault(capture.term, Arrivals()).add(gradient, rows if matched else None)
            except Exception as error:  # noqa: BLE001 - whatever torch cannot measure must not end the training
                self.unknown = self.unknown or not_measured(error)

        self.requires_grad = True
        if not tensor.is_nested and tensor._is_view():
            self.views.append((tensor.detach(), tensor._version))
        tensor.register_hook(note)

    def check_views(self) -> None:
        """Mark the call as unknown if an output lost its hook."""
        self.blind = any(alias._version != version for alias, version in self.views)
        if self.blind:
            self.unknown = unknown_rows.CHANGED_VIEW
        self.views.clear()


class Capture:
    """All forward calls of one step on one process.

    Args:
        samples: B, the number of its samples in the loss.
        before_backward: Function that is called once, when the first gradient reaches a watched module.
        shared: Whether other processes have more samples.
    """

    def __init__(
        self,
        samples: int,
        rows: Mapping[str, RowsFunction],
        flow: Flow,
        before_backward: Callable[[], None],
        shared: bool = False,
    ) -> None:
        self.samples = samples
        self._all = torch.arange(samples)
        self._thread = threading.get_ident()
        self._shared = shared
        self.closed = False
        self.term = WHOLE_LOSS  # what the gradient belongs to that arrives now
        self.calls: dict[str, list[Call]] = {}
        self.declared: list[Tensor] = []  # innermost `Monitor.rows` last
        self._rows = rows
        self._flow = flow
        self._before_backward: Callable[[], None] | None = before_backward
        self._stats: dict[str, tuple[int, int, Tensor, Tensor]] = {}
        self._stats_keys: dict[str, int] = {}

    @contextmanager
    def of_term(self, name: str) -> Iterator[None]:
        """Gradient that arrives in the block is that of a term; calls in it are repetitions by checkpointing."""
        self.term = name
        try:
            yield
        finally:
            self.term = WHOLE_LOSS

    def forget_term(self, name: str) -> None:
        """Drop what was recorded of a term whose gradient could not be computed to its end."""
        for calls in self.calls.values():
            for call in calls:
                call.arrivals.pop(name, None)

    def announce_backward(self) -> None:
        """A gradient has reached a watched module; its parameters have none of this pass yet."""
        call, self._before_backward = self._before_backward, None
        if call is not None:
            call()

    def mark_unknown(self, name: str, cause: Cause) -> None:
        """A module whose calls cannot be seen."""
        call = Call(None, recomputed=False)
        call.unknown = cause
        self.calls[name] = [call]

    def on_forward(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Record one forward call of the watched module `name`; one that cannot be measured is marked so."""
        recomputed = torch._C._current_graph_task_id() != -1
        if not recomputed and _is_other_thread(self._thread):
            return  # another thread uses the model, for no gradient of this step
        call = Call(None, recomputed)
        self.calls.setdefault(name, []).append(call)
        call.unknown = _unmeasurable(output)
        if call.unknown is unknown_rows.FUNCTION_TRANSFORM:
            return
        try:
            self._record(call, name, module, args, kwargs, output)
        except ToolkitError:
            raise
        except Exception as error:  # noqa: BLE001 - the same
            call.unknown = call.unknown or not_measured(error)

    def _record(
        self,
        call: Call,
        name: str,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> None:
        call.index = index = self._sample_index(name, args, kwargs, output)
        if call.recomputed and index is None:
            call.index = index = self._index_of_first_call(name, call)
        call.unknown = call.unknown or _opaque(output)
        lead = (self.samples,) if index is None else tuple(index.shape)
        rows = math.prod(lead)
        given = list(tensors_in((args, kwargs)))
        inputs = {id(tensor) for tensor in given}
        before = {address for each in self.calls[name] for address in each.returned}
        call.raw = not any(tensor.requires_grad or address_of(tensor) in before for tensor in given)
        call.returned = [address_of(tensor) for tensor in tensors_in(output)]
        seen: set[int] = set()
        for tensor in tensors_in(output):
            if id(tensor) in seen or not (tensor.is_floating_point() or tensor.is_complex()):
                continue
            layout = _layout(module, tensor, first=not seen, declared=index is not None)
            seen.add(id(tensor))
            matched = self._match(call, tensor, lead, id(tensor) in inputs, layout)
            plain = (
                matched
                and not tensor.is_meta
                and len(lead) == 1
                and rows > (0 if self._shared else 1)
                and tensor.dim() > 1
            )
            if plain and name not in self._stats and tensor.numel():
                numbers = _output_statistics(tensor, self._shared)
                apart = _inputs_differ((args, kwargs), rows, tensor.device)
                self._stats[name] = (rows, tensor.numel() // rows, numbers, apart)
            if tensor.requires_grad:
                call.watch(tensor, matched, rows, self)
        self._flow.note(name, tensors_in((args, kwargs)), tensors_in(output))

    def _match(
        self, call: Call, tensor: Tensor, lead: tuple[int, ...], is_input: bool, layout: Cause | None
    ) -> bool:
        """Whether the leading dimensions of an output are the samples that are known for this call."""
        if tensor.is_nested:
            reason = unknown_rows.NESTED
        elif is_input:
            reason = unknown_rows.RETURNS_INPUT
        elif layout is not None:
            reason = layout
        elif tensor.dim() == 0:
            reason = unknown_rows.SCALAR_OUTPUT
        elif tuple(tensor.shape[: len(lead)]) != lead:
            declared = "x".join(map(str, lead))
            rows = f"{self.samples} samples" if call.index is None else f"{declared} rows declared"
            reason = unknown_rows.OTHER_LEADING_SIZE.of(shape=tuple(tensor.shape), rows=rows)
        else:
            call.rows = math.prod(lead)
            return True
        call.unmatched_reason = call.unmatched_reason or reason
        if isinstance(call.rows, Absent):
            call.rows = Absent.because(reason)
        return False

    def _index_of_first_call(self, name: str, call: Call) -> Tensor | None:
        """The declared rows of the calls that a recomputation may repeat, if all have the same."""
        first = [known.index for known in self.calls.get(name, ()) if not known.recomputed]
        if all(index is None for index in first):
            return None
        known = first[0]
        if known is None or any(index is None or not torch.equal(index, known) for index in first):
            call.unknown = unknown_rows.RECOMPUTED_ROWS
            return None
        return known

    def _sample_index(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Tensor | None:
        if self.declared:
            return self.declared[-1]
        rows = self._rows.get(name)
        if rows is None:
            return None
        with torch.no_grad():
            return sample_index(rows(args, kwargs, output), f"rows[{name!r}]")

    def close(self, readout: Readout) -> None:
        """Stop listening, and add everything that has to be read on the CPU."""
        self.closed = True
        self._flow.close()
        empty = torch.zeros(0)
        for calls in self.calls.values():
            for call in calls:
                call.check_views()
            # a non-reentrant recomputation never receives gradient: its first call does
            calls[:] = [call for call in calls if call.reached or call.blind or not call.recomputed]
            for call in calls:
                call.key = readout.add(empty if call.index is None else call.index)
                for arrivals in call.arrivals.values():
                    arrivals.close(readout)
        self._stats_keys = {
            name: readout.add(torch.cat([apart.reshape(1), numbers]))
            for name, (_, _, numbers, apart) in self._stats.items()
        }

    def _call_records(self, name: str, readout: Readout, term: str) -> tuple[CallRecord, ...]:
        """The calls of a module, with the gradient of a term."""
        return tuple(self._call_record(call, readout, term) for call in self.calls.get(name, ()))

    def _unmatched_reasons(self, name: str, readout: Readout, term: str) -> list[Absent]:
        """Why gradient came, or may have come, to outputs of a module whose rows are not known."""
        found = []
        for call in self.calls.get(name, ()):
            arrivals = call.arrivals.get(term)
            came = arrivals is not None and bool(readout[arrivals.keys[1]].any())
            reason = call.unknown or (call.unmatched_reason if came else None)
            if reason is not None:
                found.append(Absent.because(reason))
        return found

    def _call_record(self, call: Call, readout: Readout, term: str) -> CallRecord:
        arrivals = call.arrivals.get(term, _NEVER)
        gradients, unmatched = (torch.zeros(0) if key < 0 else readout[key] for key in arrivals.keys)
        row_gradients: Tensor | Absent
        if isinstance(call.rows, Absent):
            row_gradients = call.rows
        elif arrivals.row_gradients is None:
            row_gradients = Absent("no gradient arrived", "no-gradient")
        else:
            row_gradients = gradients
        return CallRecord(
            grad_enabled=call.grad_enabled,
            requires_grad=call.requires_grad,
            reached=arrivals.reached,
            gradient=bool(gradients.any()) or bool(unmatched.any()),
            rows=call.rows,
            samples=self._samples_of(call, readout[call.key]),
            row_gradients=row_gradients,
            recomputed=call.recomputed,
            unknown=call.unknown,
            checkpointed=call.checkpointed,
            raw=call.raw,
            passes=frozenset(call.passes),
        )

    def _samples_of(self, call: Call, index: Tensor) -> Tensor | Absent:
        if isinstance(call.rows, Absent):
            return call.rows
        if call.index is None:
            return self._all
        samples = index.to(torch.int64)
        if samples.numel() and not 0 <= int(samples.min()) <= int(samples.max()) < self.samples:
            return Absent.because(unknown_rows.ROWS_OUT_OF_RANGE.of(last=self.samples - 1))
        return samples

    def facts(
        self, name: str, readout: Readout, evaluating: tuple[str, ...] = (), term: str = WHOLE_LOSS
    ) -> ModuleFacts:
        """The facts of a module, after the readout was fetched; `evaluating` as in `ModuleRecord`."""
        return ModuleFacts(
            self._call_records(name, readout, term),
            self._unmatched_reasons(name, readout, term),
            self._output_sums(name, readout),
            evaluating,
        )

    def _output_sums(self, name: str, readout: Readout) -> OutputSums | Absent:
        """Statistics of the first call of a module."""
        if name not in self._stats:
            return NO_STATS
        rows, elements, _, _ = self._stats[name]
        values = readout[self._stats_keys[name]]
        apart, variance, mean_square, mean = (float(value) for value in values[:4].tolist())
        row_mean = values[4:] if self._shared else None
        differ = _NOT_RAW if apart < 0.0 else apart > 0.0
        return OutputSums(rows, elements, variance, mean_square, mean, row_mean, differ)


_DEEPEST = 60  # frames between a module and the checkpoint that runs it


def address_of(tensor: Tensor) -> int:
    """Address of its numbers, which detach() keeps; -1 where it has none."""
    return tensor.data_ptr() if tensor.layout == torch.strided and tensor.numel() else -1


def in_reentrant_checkpoint() -> bool:
    """Whether the forward pass of a reentrant checkpoint is among the callers."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_DEEPEST):
        if frame is None:
            return False
        code = frame.f_code
        if code.co_name == "forward" and code.co_filename.endswith(_CHECKPOINT):
            return True
        frame = frame.f_back
    return False


def sample_index(index: Tensor, source: str) -> Tensor:
    """A declared index as float32 (exact to 2^24), for the readout.

    Raises:
        TypeError: It is not a tensor of integers with at least one dimension.
    """
    if (
        not isinstance(index, Tensor)
        or index.dim() < 1
        or index.dtype == torch.bool
        or index.is_floating_point()
    ):
        found = (
            f"{index.dtype} of shape {tuple(index.shape)}"
            if isinstance(index, Tensor)
            else type(index).__name__
        )
        raise InvalidType(
            "capture.rows-not-integers",
            "{source}: expected an integer tensor with the sample of each row, found {got}"
            " (of a mask, take mask.nonzero().flatten())",
            source=source,
            got=found,
        )
    return index.detach().to(torch.float32, copy=True)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from tensors_in(member)
    elif isinstance(value, (tuple, list)):
        for member in value:
            yield from tensors_in(member)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            yield from tensors_in(getattr(value, item.name, None))


def _is_other_thread(thread: int) -> bool:
    """Whether this is another thread; the compiler, which cannot read its number, runs in that of the step."""
    return not torch.compiler.is_dynamo_compiling() and threading.get_ident() != thread


def not_measured(error: Exception) -> Cause:
    """Why a measurement that raised is absent."""
    lines = str(error).strip().splitlines() or [""]
    return unknown_rows.NOT_MEASURED.of(reason=f"{type(error).__name__}: {lines[0][:120]}")


def _unmeasurable(output: Any) -> Cause | None:
    """Why nothing can be measured of an output, None where it can."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return unknown_rows.FUNCTION_TRANSFORM
    for tensor in tensors_in(output):
        if tensor.is_nested:
            return unknown_rows.NESTED
        if tensor.is_meta:
            return unknown_rows.NO_DATA
    return None


_PLAIN = (type(None), bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device)


def _opaque(value: Any) -> Cause | None:
    """Why tensors may hide in an output, None where none can."""
    if isinstance(value, (Tensor, *_PLAIN)):
        return None
    if isinstance(value, Mapping):
        return next(filter(None, map(_opaque, value.values())), None)
    if isinstance(value, (tuple, list)):
        return next(filter(None, map(_opaque, value)), None)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = (getattr(value, item.name, None) for item in dataclasses.fields(value))
        return next(filter(None, map(_opaque, members)), None)
    return unknown_rows.OPAQUE_OUTPUT.of(type=type(value).__name__)


def _layout(module: nn.Module, tensor: Tensor, first: bool, declared: bool) -> Cause | None:
    """Why the first dimension of an output of a torch module is not the samples, None where it may be."""
    if isinstance(module, nn.RNNBase) and not first:
        return unknown_rows.HIDDEN_STATE
    if getattr(module, "batch_first", None) is False and tensor.dim() > 2 and not declared:
        return unknown_rows.SEQUENCE_FIRST
    return None


@torch.no_grad()
def _output_statistics(output: Tensor, row_mean: bool) -> Tensor:
    """(3,): variance across rows, mean square, mean, of at most 4096 elements of each row.

    With `row_mean` those elements' mean over the rows follows them.
    """
    flat = _some_of_each_row(output.detach().abs() if output.is_complex() else output.detach())
    if flat.dtype in (torch.float16, torch.bfloat16):
        flat = flat.float()
    mean = flat.mean(0)
    apart = (flat - mean).flatten()
    variance = torch.dot(apart, apart) / apart.numel()
    numbers = torch.stack([variance, variance + mean.square().mean(), mean.mean()])
    return torch.cat([numbers, mean]) if row_mean else numbers


@torch.no_grad()
def _inputs_differ(given: Any, rows: int, device: torch.device) -> Tensor:
    """(1,) whether raw inputs differ between rows; -1 where they are not raw, or it is not known."""
    tensors = [tensor for tensor in tensors_in(given) if tensor.dim() and tensor.numel()]
    leading = [tensor for tensor in tensors if tensor.shape[0] == rows]
    if not leading or any(tensor.requires_grad for tensor in tensors) or _opaque(given):
        return torch.full((1,), -1.0, device=device)
    looked_at = [_some_of_each_row(tensor.detach()) for tensor in leading]
    apart = [(some[1:] != some[:1]).any().to(device) for some in looked_at]
    return torch.stack(apart).any().float().reshape(1)


def _some_of_each_row(tensor: Tensor) -> Tensor:
    """(rows, at most 4096)."""
    flat = tensor.reshape(len(tensor), -1)
    width = flat.shape[1]
    if width <= _STATS_WIDTH:
        return flat
    return flat[:, :: -(-width // _STATS_WIDTH) | 1]  # odd, so that it meets every channel
