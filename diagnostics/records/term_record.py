"""Records of the named terms of a loss in one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from diagnostics.causes import Cause
from diagnostics.records.absent import Number
from diagnostics.records.module_record import GradientState
from diagnostics.records.parameter_record import Reach


@dataclass(frozen=True, slots=True)
class TermReach:
    """How one named term of the loss reached one watched module, in one step.

    Attributes:
        coverage: Samples for which the term has a non-zero gradient through what the module computed, over the
            samples in the loss.
        state: State of the term's gradient, over all calls of the module.
        calls_with_gradient: Calls at which a non-zero gradient of the term arrived.
        params_trainable: Parameters with requires_grad; params_none those without gradient of the term, params_zero
            those whose gradient is all zero.
        norm: L2 norm of the term's gradient with respect to the module's parameters.
        descent: First-order fall of the term by the module's movement in this step, the sum of
            gradient x (weight before - weight after): negative where the update raises the term.
    """

    coverage: Number
    state: GradientState
    calls_with_gradient: int
    params_trainable: int
    params_none: int
    params_zero: int
    norm: Number
    descent: Number

    @property
    def kind(self) -> Literal["none", "zero", "some"]:
        """Whether the term trains the module: no gradient, only zeros, or some that is not zero."""
        if self.params_none + self.params_zero < self.params_trainable:
            return "some"
        return "zero" if self.params_zero else "none"


@dataclass(frozen=True, slots=True)
class TermRecord:
    """One named term of the loss in one step.

    Attributes:
        value: The term, summed over the micro-batches of the step.
        regulariser: Whether it was declared to be one; the others are of the task.
        modules: Reach per watched module; empty where it could not be measured.
        parameters: Reach per parameter, by its full name.
        unknown: Why the gradient could not be measured; None where it was.
        exact: Whether `value` is of tensors of single precision or better.
    """

    value: float
    regulariser: bool
    modules: Mapping[str, TermReach]
    parameters: Mapping[str, Reach]
    unknown: Cause | None = None
    exact: bool = True
