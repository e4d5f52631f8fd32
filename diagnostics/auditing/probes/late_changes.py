"""Whether steps change gradients that were applied already, or are not there yet: clipping at the wrong place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.recording.tensors import stored_values
from diagnostics.rules.rule import WARNING, Family, Rule

CHANGED_LATE = Cause(
    "changed-after-step",
    "gradients are changed after optimizer.step(), as by clip_grad_norm_(), which has no effect",
    remedy="Clip between backward() and optimizer.step().",
)
CLIPPED_EARLY = Cause(
    "clipped-before-backward",
    "clip_grad_norm_() is called before backward(), when no gradient exists, so it has no effect",
    remedy="Clip between backward() and optimizer.step().",
)
CLIPS_NOTHING = Cause(
    "clips-nothing",
    "clip_grad_norm_() finds no gradient after backward(), so it has no effect: its parameters are an iterator that is"
    " used up, or not those that receive gradient",
    remedy="Call model.parameters() anew for each use, or keep list(model.parameters()).",
)
STILL_SCALED = Cause(
    "applied-while-scaled",
    "optimizer.step() applies gradients that still contain the scale of a GradScaler",
    remedy="Call scaler.step(optimizer) and scaler.update() instead of optimizer.step().",
)
MOVE007 = Rule(
    "MOVE007",
    WARNING,
    "A gradient is changed too late, or too early",
    "operations",
    "Clip or scale gradients between backward() and optimizer.step().",
    source="audit",
    arguments="audit",
    causes=(CHANGED_LATE, CLIPPED_EARLY, CLIPS_NOTHING, STILL_SCALED),
    what="In each step of an audit a gradient is written to in place between the optimiser's step and the next backward"
    " pass, and not to zero; or gradients are clipped where there are none: before the backward pass, or of parameters"
    " without gradient; or a GradScaler scales the loss, and does not unscale the gradients.",
    why="The optimiser has already applied the gradient as it was.",
    example="`optimizer.step(); clip_grad_norm_(model.parameters(), 1.0)`.",
    false_alarms="Code that uses gradients for another purpose after the update.",
)
FAMILY = Family(133, "Updates of parameters", (MOVE007,))
_FEWEST = 5
"""Steps from which it is no single event."""


def check_clipping(traces: Sequence[OperationTrace]) -> list[Finding]:
    """MOVE007 for what each step does: it clips where there is no gradient alone, or applies scaled gradients."""
    found = [
        (CLIPPED_EARLY, _clips_early),
        (CLIPS_NOTHING, _clips_nothing),
        (STILL_SCALED, _applies_scaled),
    ]
    return [
        MOVE007.found_once("", cause)
        for cause, holds in found
        if traces and all(holds(trace.updates.events) for trace in traces)
    ]


def _clips_early(order: Sequence[str]) -> bool:
    first = order.index("backward") if "backward" in order else 0
    empty = {"clip-nothing", "clip-zero"}
    return "clip" not in order and bool(empty & {*order[:first]}) and not empty & {*order[first:]}


def _clips_nothing(order: Sequence[str]) -> bool:
    """Whether it clips between a backward pass and an update, and never finds a gradient."""
    if not {"backward", "step"} <= {*order} or {"clip", "clip-zero"} & {*order}:
        return False
    first, last = order.index("backward"), len(order) - 1 - order[::-1].index("step")
    return "clip-nothing" in order[first:last]


def _applies_scaled(order: Sequence[str]) -> bool:
    scaled = order.index("scale") if "scale" in order else len(order)
    return "unscale" not in order and "backward" in order[scaled:] and "step" in order[scaled:]


class LateChanges:
    """Counts steps that change a gradient in place between the optimiser's step and the next backward pass.

    Attributes:
        steps: Steps in which an optimiser stepped.
        changed: Steps in which a gradient was changed afterwards, and not to zero.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers
        self._parameters = [
            parameter
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
        self._versions: dict[int, tuple[Tensor, int]] = {}
        self.steps = self.changed = 0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """One step runs inside."""
        self._versions = {}
        handles: list[RemovableHandle] = [
            optimizer.register_step_post_hook(self._applied) for optimizer in self._optimizers
        ]
        handles += [
            parameter.register_post_accumulate_grad_hook(self._arrived)
            for parameter in self._parameters
            if parameter.requires_grad and isinstance(parameter, nn.Parameter) and not is_lazy(parameter)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if self._versions:
            self.steps += 1
            self.changed += any(map(self._is_changed, self._parameters))

    def findings(self) -> list[Finding]:
        """MOVE007, if every step did so."""
        late = self.changed == self.steps >= _FEWEST
        return [MOVE007.found_once("", CHANGED_LATE)] if late else []

    def _applied(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._versions[id(parameter)] = (parameter.grad, parameter.grad._version)

    def _arrived(self, parameter: Tensor) -> None:
        self._versions.pop(id(parameter), None)  # a later backward pass may add to it

    def _is_changed(self, parameter: Tensor) -> bool:
        gradient, version = self._versions.get(id(parameter), (None, 0))
        replaced = parameter.grad is not None and parameter.grad is not gradient
        if gradient is None or replaced or gradient._version == version:
            return False  # zero_grad() may have let go of it since
        return bool(stored_values(gradient).any())
