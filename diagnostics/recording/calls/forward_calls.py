"""One forward call while its step runs, and the gradient that comes to its outputs.

A hook on an output tensor receives the gradient with respect to the value that the module returned,
also where that tensor is later changed in place. A view is the exception: once it or its base is changed
in place, torch builds it a new history and the hook is never called, so such a call is marked as unknown.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from diagnostics.causes import Cause
from diagnostics.errors import describe
from diagnostics.recording.calls import unknown_rows
from diagnostics.recording.readout import Readout
from diagnostics.records import Absent

WHOLE_LOSS = ""
"""Key of what the backward pass of the training step brought; the others are names of terms."""
_CHECKPOINT = str(Path("torch", "utils", "checkpoint.py"))
_DEEPEST = 60  # frames between a module and the checkpoint that runs it
_NO_FLOATING_OUTPUT = Absent.because(unknown_rows.NO_FLOATING_OUTPUT)


class Listener(Protocol):
    """The step that a call belongs to."""

    closed: bool
    term: str
    handles: list[RemovableHandle]

    def announce_backward(self) -> None:
        """A gradient has reached a watched module."""


class Arrivals:
    """The gradient that came to the outputs of one call, over several outputs and several backward passes.

    From the whole loss, or from one of its named terms.
    """

    __slots__ = ("keys", "reached", "row_gradients", "unmatched")

    def __init__(self) -> None:
        self.reached = False
        self.row_gradients: Tensor | None = None  # (rows,) largest |gradient|
        self.unmatched: Tensor | None = None  # largest |gradient| at outputs without row per sample
        self.keys = (-1, -1)

    def add(self, gradient: Tensor, rows: int | None) -> None:
        """Note the gradient of an output.

        Args:
            rows: Number of leading rows that belong to samples, None where they are not known.
        """
        self.reached = True
        if gradient.is_meta:
            return
        if gradient.requires_grad:  # create_graph
            gradient = gradient.detach()
        sizes = gradient.abs()
        if rows is None:
            self.unmatched = _larger(self.unmatched, sizes.amax())
        else:
            by_row = sizes if sizes.dim() == 2 and sizes.shape[0] == rows else sizes.reshape(rows, -1)
            self.row_gradients = _larger(self.row_gradients, by_row.amax(1))

    def close(self, readout: Readout) -> None:
        """Add what has to be read on the CPU."""
        rows, rest = self.row_gradients, self.unmatched
        self.keys = (-1 if rows is None else readout.add(rows), -1 if rest is None else readout.add(rest))
        self.row_gradients = self.unmatched = None


def _larger(before: Tensor | None, now: Tensor) -> Tensor:
    return now if before is None else torch.maximum(before, now)


class Call:
    """One forward call of a watched module."""

    __slots__ = (
        "arrivals",
        "blind",
        "checkpointed",
        "grad_enabled",
        "in_sampling",
        "index",
        "key",
        "passes",
        "perturbed",
        "raw",
        "recomputed",
        "requires_grad",
        "returned",
        "rows",
        "training",
        "unknown",
        "unmatched_reason",
        "views",
    )

    def __init__(self, recomputed: bool, training: bool = True) -> None:
        self.training = training  # the mode of the module
        self.grad_enabled = torch.is_grad_enabled()
        self.recomputed = recomputed
        self.index: Tensor | None = None
        self.requires_grad = False
        self.rows: int | Absent = _NO_FLOATING_OUTPUT
        self.arrivals = {WHOLE_LOSS: Arrivals()}  # and one per term of the loss that reached it
        self.unmatched_reason: Cause | None = None
        self.unknown: Cause | None = None  # why gradient may have come without being seen
        self.views: list[tuple[Tensor, int]] = []  # alias of a view that was returned, and its version then
        self.checkpointed = not self.grad_enabled and not recomputed and in_reentrant_checkpoint()
        self.passes: set[int] = set()
        self.raw = False  # no input requires gradient, or is what an earlier call of the module returned
        self.in_sampling = False  # in a call of the whole model on integers, with gradients disabled
        # whether an input comes from a tensor that collects gradient, and from no watched module
        self.perturbed = False
        self.returned: list[int] = []  # addresses of its outputs
        self.blind = False  # an output lost its hook
        self.key = -1  # of the index

    @property
    def reached(self) -> bool:
        """Whether the backward pass of the step came to an output."""
        return self.arrivals[WHOLE_LOSS].reached

    @property
    def kind(self) -> tuple[Any, ...]:
        """What is the same in all steps of one kind, once the step is over."""
        arrivals = self.arrivals[WHOLE_LOSS]
        return (
            self.grad_enabled,
            self.requires_grad,
            self.recomputed,
            self.checkpointed,
            self.raw,
            self.in_sampling,
            self.perturbed,
            self.rows,
            self.unknown,
            self.unmatched_reason,
            arrivals.reached,
            arrivals.keys,
            len(self.passes),
        )

    def watch(self, tensor: Tensor, rows: int | None, step: Listener) -> None:
        """Note the gradient that arrives at `tensor`, of whose leading rows so many belong to samples."""

        def note(gradient: Tensor | None) -> None:
            if gradient is None or step.closed or gradient.numel() == 0:
                return
            arrivals = self.arrivals[WHOLE_LOSS]
            if step.term == WHOLE_LOSS:
                step.announce_backward()
                self.passes.add(torch._C._current_graph_task_id())
            else:
                arrivals = self.arrivals.setdefault(step.term, Arrivals())
            try:
                arrivals.add(gradient, rows)
            except Exception as error:  # noqa: BLE001 - whatever torch cannot measure must not end the training
                self.unknown = self.unknown or not_measured(error)

        self.requires_grad = True
        if not tensor.is_nested and tensor._is_view():
            self.views.append((tensor.detach(), tensor._version))
        handle = tensor.register_hook(note)
        if tensor.is_leaf:  # such as a parameter that is returned: it outlives the graph of the step
            step.handles.append(handle)

    def check_views(self) -> None:
        """Mark the call as unknown if an output lost its hook."""
        if not self.views:
            return
        self.blind = any(alias._version != version for alias, version in self.views)
        if self.blind:
            self.unknown = unknown_rows.CHANGED_VIEW
        self.views.clear()


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


def not_measured(error: Exception) -> Cause:
    """Why a measurement that raised is absent."""
    return unknown_rows.NOT_MEASURED.of(reason=describe(error))
