"""The gradients of learned predicates in the logged steps of runs of the symbolic solver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from etrm.investigation.evidence.reasons import VerdictReason
from etrm.investigation.evidence.table import Direction, EvidenceRow, Metric

PART = "core"
"""The part that the predicates are in: it has no other weights."""


class PredicateReason(StrEnum):
    """What the steps show about learned predicates."""

    UNREGISTERED = "h2.predicates-unregistered"
    NO_GRADIENT = "h2.predicates-without-gradient"
    ZERO_GRADIENT = "h2.predicates-with-zero-gradient"
    NO_MOVEMENT = "h2.predicates-without-movement"
    IDLE_TENSORS = "h2.predicates-idle"


@dataclass(frozen=True)
class PredicateFacts:
    """What the logged steps show about learned predicates. A step on which the settings freeze the core is left out.

    A sampled template trains only its own predicates, so one step without them is no fault.

    Attributes:
        steps: number of steps.
        registered: whether the model has weights of learned predicates.
        without_gradient: number of steps on which none of them has a gradient other than zero.
        zero: largest number of tensors whose gradient is exactly zero.
        without_movement: number of steps on which none of them changes.
        idle: number of tensors without gradient or movement on the step with the fewest of them.
    """

    steps: int
    registered: bool
    without_gradient: int
    zero: int
    without_movement: int
    idle: int

    @property
    def reasons(self) -> list[VerdictReason]:
        """What is wrong with them; nothing where each is trained."""
        if not self.steps:
            return []
        if not self.registered:
            words = "the model has no weights of its learned predicates, so no optimiser and no checkpoint has them"
            return [VerdictReason(PredicateReason.UNREGISTERED, words)]
        every = f"on each of {self.steps} steps"
        if self.without_gradient == self.steps and self.zero:
            words = f"the gradient of {self.zero} tensors of learned predicates arrives and is exactly zero {every}"
            return [VerdictReason(PredicateReason.ZERO_GRADIENT, words)]
        if self.without_gradient == self.steps:
            words = f"no gradient reaches the learned predicates {every}"
            return [VerdictReason(PredicateReason.NO_GRADIENT, words)]
        if self.without_movement == self.steps:
            words = f"the learned predicates do not move {every}, although gradients arrive"
            return [VerdictReason(PredicateReason.NO_MOVEMENT, words)]
        if self.idle:
            words = f"at least {self.idle} tensors of learned predicates without gradient or movement {every}"
            return [VerdictReason(PredicateReason.IDLE_TENSORS, words)]
        return []


def gather_predicates(metrics: Sequence[dict[str, Any]]) -> PredicateFacts:
    """Gather what finite steps show about learned predicates."""
    trained = [m for m in metrics if m.get("frozen") != "decoder"]

    def values(key: str) -> list[float | None]:
        return [m.get(f"{PART}.{key}") for m in trained]

    moved = values("moved")
    return PredicateFacts(
        steps=len(trained),
        registered=any(value is not None for value in moved),
        without_gradient=sum(not value for value in values("grad_norm_pre_clip")),
        zero=int(max((value or 0 for value in values("params_zero")), default=0)),
        without_movement=sum(value == 0 for value in moved),
        idle=int(min((value or 0 for value in values("params_idle")), default=0)),
    )


PREDICATES_IN_MODEL = Metric(
    "h2.predicates-in-model", "the weights of learned predicates are in the model", Direction.HOLDS
)
PREDICATES_WITHOUT_GRADIENT = Metric(
    "h2.predicate-steps-without-gradient", "steps without a gradient of learned predicates", Direction.HOLDS
)
PREDICATES_ZERO = Metric(
    "h2.predicate-tensors-with-zero-gradient",
    "tensors of learned predicates whose gradient is exactly zero, worst step",
)
PREDICATES_WITHOUT_MOVEMENT = Metric(
    "h2.predicate-steps-without-movement", "steps on which no learned predicate moves", Direction.HOLDS
)
PREDICATES_IDLE = Metric(
    "h2.predicate-tensors-idle",
    "tensors of learned predicates without gradient or movement, best step",
    Direction.HOLDS,
)


def make_predicate_rows(found: PredicateFacts) -> tuple[EvidenceRow, ...]:
    """The rows of an evidence table."""
    n = f"{found.steps} steps"
    some = f"fewer than {found.steps}"
    return (
        PREDICATES_IN_MODEL.row(
            float(found.registered), threshold="in the model", passed=found.registered, n=n
        ),
        PREDICATES_WITHOUT_GRADIENT.row(
            found.without_gradient, threshold=some, passed=found.without_gradient < found.steps, n=n
        ),
        PREDICATES_ZERO.row(found.zero, threshold="context", n=n),
        PREDICATES_WITHOUT_MOVEMENT.row(
            found.without_movement, threshold=some, passed=found.without_movement < found.steps, n=n
        ),
        PREDICATES_IDLE.expect_none(found.idle, n),
    )
