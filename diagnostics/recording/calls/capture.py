"""Watches the forward calls of one step, and the gradients that come back to their outputs.

A module called again inside the backward pass is a recomputation by checkpointing: the non-reentrant kind
brings its gradient to the first call and the repetition is left out; the reentrant kind brings it to the
repetition, which is kept and marked.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from diagnostics.causes import Cause
from diagnostics.errors import InvalidType, ToolkitError
from diagnostics.recording.calls import unknown_rows
from diagnostics.recording.calls.callers import calling_line
from diagnostics.recording.calls.forward_calls import WHOLE_LOSS, Arrivals, Call, not_measured
from diagnostics.recording.calls.module_graph import Flow
from diagnostics.recording.calls.output_statistics import OutputStatistics, raw_inputs, read_statistics
from diagnostics.recording.calls.unknown_rows import find_opaque
from diagnostics.recording.process_group import ModuleFacts
from diagnostics.recording.readout import Readout, Readouts
from diagnostics.recording.sample_sizes import together
from diagnostics.recording.tensors import address_of, is_transformed, list_tensors
from diagnostics.recording.weak_hooks import remove_hooks
from diagnostics.records import Absent, CallRecord

RowsFunction = Callable[[tuple[Any, ...], dict[str, Any], Any], Tensor]
"""(args, kwargs, output) of a module's forward -> the sample that each leading row of the output belongs to.

Of shape (rows,); or of two and more dimensions where samples are not first: (T, B) for a sequence-first layout.
"""

_NEVER = Arrivals()  # of a term that did not come to a call
_NOTHING_ARRIVED = Absent("no gradient arrived", "no-gradient")


class Capture:
    """All forward calls of one step on one process.

    Args:
        every_sample: (B,) the numbers of its samples in the loss, 0 to B - 1.
        before_backward: Function that is called once, when the first gradient reaches a watched module.
        shared: Whether other processes have more samples.
        quiet: Where modules were first called with gradients disabled, which is added to: file and line by name.
    """

    def __init__(
        self,
        every_sample: Tensor,
        rows: Mapping[str, RowsFunction],
        flow: Flow,
        before_backward: Callable[[], None],
        shared: bool = False,
        quiet: dict[str, tuple[str, int]] | None = None,
    ) -> None:
        self._quiet = {} if quiet is None else quiet
        self.samples = len(every_sample)
        self._all = every_sample
        self._thread = threading.get_ident()
        self._shared = shared
        self.closed = False
        self.handles: list[RemovableHandle] = []  # of hooks on tensors that outlive the step
        self.term = WHOLE_LOSS  # what the gradient belongs to that arrives now
        self.calls: dict[str, list[Call]] = {}
        self.declared: list[Tensor] = []  # innermost `Monitor.rows` last
        self._rows = rows
        self._flow = flow
        self._before_backward: Callable[[], None] | None = before_backward
        self._statistics: dict[str, OutputStatistics] = {}
        self._before_model: dict[str, int] = {}  # calls of each module when a call of the whole model began

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
        if self._before_backward is not None:
            call, self._before_backward = self._before_backward, None
            call()

    def mark_unknown(self, name: str, cause: Cause) -> None:
        """A module whose calls cannot be seen."""
        call = Call(recomputed=False)
        call.unknown = cause
        self.calls[name] = [call]

    def begin_model_call(self) -> None:
        """A call of the whole model begins."""
        if not torch.is_grad_enabled():
            self._before_model = {name: len(calls) for name, calls in self.calls.items()}

    def end_model_call(self, given: Any) -> None:
        """A call of the whole model ends: mark those inside it if it can only have sampled words or actions.

        With gradients disabled, integers carry nothing from one call to the next that a gradient could follow.

        Args:
            given: Its arguments.
        """
        if torch.is_grad_enabled():
            return
        tensors = list_tensors(given)
        if not tensors or any(map(_holds_numbers, tensors)) or find_opaque(given):
            return
        for name, calls in self.calls.items():
            for call in calls[self._before_model.get(name, 0) :]:
                call.in_sampling = not call.grad_enabled

    def on_forward(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Record one forward call of the watched module `name`; one that cannot be measured is marked so."""
        recomputed = torch._C._current_graph_task_id() != -1
        if not recomputed and _is_other_thread(self._thread):
            return  # another thread uses the model, for no gradient of this step
        call = Call(recomputed, module.training)
        calls = self.calls.get(name)
        if calls is None:
            calls = self.calls[name] = []
        calls.append(call)
        if not call.grad_enabled and name not in self._quiet:
            self._quiet[name] = calling_line()
        if is_transformed():
            call.unknown = unknown_rows.FUNCTION_TRANSFORM
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
        outputs = list_tensors(output)
        call.unknown = _unmeasurable(outputs)
        if self.declared or self._rows:
            call.index = self._sample_index(name, args, kwargs, output)
        if call.recomputed and call.index is None:
            call.index = self._index_of_first_call(name, call)
        if len(outputs) != 1 or output is not outputs[0]:
            call.unknown = call.unknown or find_opaque(output)
        given = [*list_tensors(args), *list_tensors(kwargs)] if kwargs else list_tensors(args)
        if not any(tensor.requires_grad for tensor in given):
            before = {address for each in self.calls[name] for address in each.returned}
            call.raw = not any(address_of(tensor) in before for tensor in given)
        call.returned = [address_of(tensor) for tensor in outputs]
        self._watch_outputs(call, name, module, outputs, given, (args, kwargs))
        if self._flow.tracing:
            self._flow.note(name, given, outputs)
        if not call.raw and not self._flow.into.get(name):
            call.perturbed = _reads_collecting(given)

    def _watch_outputs(
        self,
        call: Call,
        name: str,
        module: nn.Module,
        outputs: Sequence[Tensor],
        given: Sequence[Tensor],
        arguments: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> None:
        lead = (self.samples,) if call.index is None else tuple(call.index.shape)
        seen: list[int] = []
        inputs = [id(tensor) for tensor in given]
        for tensor in outputs:
            if not _holds_numbers(tensor) or id(tensor) in seen:
                continue
            layout = _layout(module, tensor, first=not seen, declared=call.index is not None)
            seen.append(id(tensor))
            is_input = id(tensor) in inputs
            rows = self._match(call, tensor, lead, is_input, layout)
            if rows is not None and name not in self._statistics and self._has_statistics(tensor, lead):
                raw = raw_inputs(given, *arguments)
                self._statistics[name] = OutputStatistics(tensor, raw, self._shared)
            if tensor.requires_grad:
                call.watch(tensor, rows, self)

    def _has_statistics(self, output: Tensor, lead: tuple[int, ...]) -> bool:
        enough = lead[0] > (0 if self._shared else 1)
        return len(lead) == 1 and enough and output.dim() > 1 and output.numel() > 0 and not output.is_meta

    def _match(
        self, call: Call, tensor: Tensor, lead: tuple[int, ...], is_input: bool, layout: Cause | None
    ) -> int | None:
        """The rows of an output if its leading dimensions are the samples that are known for this call."""
        if tensor.is_nested:
            reason = unknown_rows.NESTED
        elif is_input:
            reason = unknown_rows.RETURNS_INPUT
        elif layout is not None:
            reason = layout
        elif tensor.dim() == 0:
            reason = unknown_rows.SCALAR_OUTPUT
        elif tensor.shape[: len(lead)] == lead:
            call.rows = rows = lead[0] if len(lead) == 1 else math.prod(lead)
            return rows
        else:
            declared = "x".join(map(str, lead))
            samples = f"{self.samples} samples" if call.index is None else f"{declared} rows declared"
            reason = unknown_rows.OTHER_LEADING_SIZE.of(shape=tuple(tensor.shape), rows=samples)
        call.unmatched_reason = call.unmatched_reason or reason
        if isinstance(call.rows, Absent):
            call.rows = Absent.because(reason)
        return None

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

    def stop(self) -> None:
        """Stop listening."""
        self.closed = True
        remove_hooks(self.handles)
        self.handles.clear()

    def close(self, readout: Readout) -> None:
        """Stop listening, and add everything that has to be read on the CPU."""
        self.stop()
        self._before_backward = None
        self._flow.close()
        for calls in self.calls.values():
            for call in calls:
                call.check_views()
            # a non-reentrant recomputation never receives gradient: its first call does
            calls[:] = [call for call in calls if call.reached or call.blind or not call.recomputed]
            for call in calls:
                if call.index is not None:
                    call.key = readout.add(call.index)
                for arrivals in call.arrivals.values():
                    arrivals.close(readout)
        for statistics in self._statistics.values():
            statistics.close(readout)

    @property
    def kind(self) -> tuple[Any, ...] | None:
        """What is the same in all steps of one kind; None where rows were declared, or terms came to a call."""
        kinds = []
        for name, calls in self.calls.items():
            for call in calls:
                if call.key >= 0 or len(call.arrivals) > 1:
                    return None
                kinds.append((name, *call.kind))
        return (self.samples, *kinds, *(each.kind for each in self._statistics.values()))

    @property
    def called(self) -> set[str]:
        """The modules that computed something."""
        return {name for name, calls in self.calls.items() if any(call.rows != 0 for call in calls)}

    @property
    def passes(self) -> set[int]:
        """Numbers in torch of the backward passes that reached a call."""
        return {task for calls in self.calls.values() for call in calls for task in call.passes}

    def name_passes(self, numbers: Mapping[int, int]) -> None:
        """Name the backward passes by their numbers in the step: number in torch -> that."""
        for calls in self.calls.values():
            for call in calls:
                call.passes = {numbers[task] for task in call.passes}

    def largest(self, readout: Readouts) -> dict[int, Any]:
        """Key of the row gradients of a call -> the largest of them, once the readout was fetched."""
        keys = [
            arrivals.keys[0]
            for calls in self.calls.values()
            for call in calls
            for arrivals in call.arrivals.values()
            if arrivals.keys[0] >= 0
        ]
        by_size: dict[tuple[int, torch.dtype], list[tuple[int, Tensor]]] = {}
        for key in keys:
            rows = readout.rows(key)
            if rows.shape[1]:
                by_size.setdefault((rows.shape[1], rows.dtype), []).append((key, rows))
        found = {}
        for alike in by_size.values():
            largest = torch.stack([rows for _, rows in alike]).amax(2).tolist()
            found.update({key: readout.column(each) for (key, _), each in zip(alike, largest, strict=True)})
        return found

    def facts(
        self,
        name: str,
        readout: Readouts,
        largest: Mapping[int, Any],
        evaluating: tuple[str, ...] = (),
        term: str = WHOLE_LOSS,
    ) -> ModuleFacts:
        """The facts of a module; `largest` is what the method gave, `evaluating` as in `ModuleRecord`."""
        calls = self.calls.get(name, ())
        keys = [each.arrivals[term].keys[0] for each in calls if term in each.arrivals]
        return ModuleFacts(
            tuple(self._call_record(call, readout, largest, term) for call in calls),
            self._unmatched_reasons(calls, readout, term),
            read_statistics(self._statistics.get(name), readout),
            evaluating,
            None
            if readout.agreement is None
            else together(self.samples, [readout.rows(key) for key in keys if key >= 0], readout),
        )

    def _unmatched_reasons(self, calls: Sequence[Call], readout: Readouts, term: str) -> list[Absent]:
        """Why gradient came, or may have come, to outputs whose rows are not known."""
        found = []
        for call in calls:
            reason = call.unknown
            if reason is None and call.unmatched_reason is not None:
                came = _unmatched(call.arrivals.get(term, _NEVER), readout)
                reason = call.unmatched_reason if came else None
            if reason is not None:
                found.append(Absent.because(reason))
        return found

    def _call_record(self, call: Call, readout: Readouts, sizes: Mapping[int, Any], term: str) -> CallRecord:
        arrivals = call.arrivals.get(term, _NEVER)
        key = arrivals.keys[0]
        largest = sizes.get(key, 0.0)
        row_gradients = _NOTHING_ARRIVED if key < 0 else readout[key]
        return CallRecord(
            grad_enabled=call.grad_enabled,
            requires_grad=call.requires_grad,
            reached=arrivals.reached,
            gradient=largest != 0.0 or _unmatched(arrivals, readout),
            rows=call.rows,
            samples=self._samples_of(call, readout),
            row_gradients=call.rows if isinstance(call.rows, Absent) else row_gradients,
            recomputed=call.recomputed,
            unknown=call.unknown,
            checkpointed=call.checkpointed,
            raw=call.raw,
            in_sampling=call.in_sampling,
            perturbed=call.perturbed,
            passes=frozenset(call.passes),
            largest=largest,
        )

    def _samples_of(self, call: Call, readout: Readouts) -> Tensor | Absent:
        if isinstance(call.rows, Absent):
            return call.rows
        if call.key < 0:
            return self._all
        samples: Tensor = readout[call.key].to(torch.int64)
        if samples.numel() and not 0 <= int(samples.min()) <= int(samples.max()) < self.samples:
            return Absent.because(unknown_rows.ROWS_OUT_OF_RANGE.of(last=self.samples - 1))
        return samples


def _unmatched(arrivals: Arrivals, readout: Readouts) -> bool:
    """Whether a non-zero gradient came to an output whose rows are not known."""
    key = arrivals.keys[1]
    return key >= 0 and readout.numbers(key)[0] != 0.0


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


_MOST_NODES = 32
"""Operations between a perturbation and the model: a sum, a clamp, a normalisation."""


def _reads_collecting(given: Sequence[Tensor]) -> bool:
    """Whether some tensor is one that collects gradient and is no parameter, or was computed from one in few steps."""
    leaves = [tensor for tensor in given if tensor.requires_grad and tensor.grad_fn is None]
    waiting = [tensor.grad_fn for tensor in given if tensor.grad_fn is not None]
    seen: set[Any] = set(waiting)
    while waiting and len(seen) <= _MOST_NODES:
        node = waiting.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            leaves.append(leaf)
        new = {before for before, _ in node.next_functions if before is not None} - seen
        seen |= new
        waiting += new
    return any(not isinstance(leaf, nn.Parameter) for leaf in leaves)


def _is_other_thread(thread: int) -> bool:
    """Whether this is another thread; the compiler, which cannot read its number, runs in that of the step."""
    return not torch.compiler.is_dynamo_compiling() and threading.get_ident() != thread


def _unmeasurable(outputs: Sequence[Tensor]) -> Cause | None:
    """Why nothing can be measured of an output, None where it can."""
    for tensor in outputs:
        if tensor.is_nested:
            return unknown_rows.NESTED
        if tensor.is_meta:
            return unknown_rows.NO_DATA
    return None


def _holds_numbers(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _layout(module: nn.Module, tensor: Tensor, first: bool, declared: bool) -> Cause | None:
    """Why the first dimension of an output of a torch module is not the samples, None where it may be."""
    if not first and isinstance(module, nn.RNNBase):
        return unknown_rows.HIDDEN_STATE
    if not declared and tensor.dim() > 2 and getattr(module, "batch_first", None) is False:
        return unknown_rows.SEQUENCE_FIRST
    return None
