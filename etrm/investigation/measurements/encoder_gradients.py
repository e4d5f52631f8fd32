"""The gradients of the encoder in the logged steps of runs: coverage, arrival, movement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from etrm.investigation.evidence.reasons import InspectionFacts, VerdictReason
from etrm.investigation.evidence.words import format_value
from etrm.investigation.measurements.predicate_gradients import PredicateFacts, gather_predicates
from etrm.investigation.records import NotMeasured, Value


class GradientReason(StrEnum):
    """What the steps show about the encoder."""

    COVERAGE_BELOW_ONE = "h2.coverage-below-one"
    NO_GRADIENT = "h2.no-gradient"
    NO_MOVEMENT = "h2.no-movement"
    IDLE_TENSORS = "h2.idle-tensors"
    EVERY_STEP_TRAINS = "h2.every-step-trains-it"
    ROWS_LEFT_OUT = "h2.rows-left-out-at-random"


@dataclass(frozen=True)
class GradientFacts(InspectionFacts):
    """What the logged steps of some runs show about the encoder; every field is over all of them.

    ``predicates`` is about the learned predicates of the symbolic solver, which demonstrations are evaluated by.
    ``left_out`` is the share of rows that a variant from outside leaves out at random, if this is why the coverage is
    below 1; steps do not count as uncovered then.
    """

    steps: int
    coverage_low: Value
    coverage_mean: Value
    reset_share: Value
    uncovered_steps: int
    without_gradient: int
    without_movement: int
    dead_tensors: int
    gradient_low: Value
    moved_low: Value
    waste_high: Value
    calls: Value
    calls_with_grad: Value
    finite: bool
    predicates: PredicateFacts | None = None
    left_out: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the hypothesis holds: a gradient or a movement of the encoder, or of a predicate, is missing."""
        encoder = self.uncovered_steps or self.without_gradient or self.without_movement or self.dead_tensors
        return bool(encoder or (self.predicates and self.predicates.reasons))

    @property
    def reasons(self) -> list[VerdictReason]:
        """What is wrong with the steps, or that nothing is."""
        found = []
        if self.uncovered_steps:
            found.append(
                VerdictReason(
                    GradientReason.COVERAGE_BELOW_ONE,
                    f"encoder coverage below 1 on {self.uncovered_steps} of {self.steps} steps "
                    f"(mean {format_value(self.coverage_mean, '.2f')})",
                )
            )
        if self.without_gradient:
            words = f"no gradient in the encoder on {self.without_gradient} of {self.steps} steps"
            found.append(VerdictReason(GradientReason.NO_GRADIENT, words))
        if self.without_movement:
            arrived = (
                "although gradients arrive" if not self.without_gradient else "because no gradient arrives"
            )
            words = f"the encoder does not move on {self.without_movement} of {self.steps} steps, {arrived}"
            found.append(VerdictReason(GradientReason.NO_MOVEMENT, words))
        if self.dead_tensors and not self.without_movement:
            words = f"up to {self.dead_tensors} trainable encoder tensors without gradient or movement"
            found.append(VerdictReason(GradientReason.IDLE_TENSORS, words))
        found += self.predicates.reasons if self.predicates else []
        if found:
            return found
        if self.left_out:
            mean = format_value(self.coverage_mean, ".2f")
            words = (
                f"encoder coverage {mean} on average over {self.steps} steps, because the variant leaves out "
            )
            words += f"{self.left_out:.0%} of the contexts at random; every other row trains it, and every trainable "
            words += "tensor moves"
            return [VerdictReason(GradientReason.ROWS_LEFT_OUT, words)]
        low = format_value(self.coverage_low, ".2f")
        words = f"encoder coverage {low} on every one of {self.steps} steps, and every trainable tensor moves"
        return [VerdictReason(GradientReason.EVERY_STEP_TRAINS, words)]


def gather(
    metrics: Sequence[dict[str, Any]], *, predicates: bool = False, own_encoder: bool = False
) -> GradientFacts:
    """Gather the facts of logged steps; a step that logged nothing about the encoder counts as not covered.

    Steps on which the settings freeze the encoder are left out, and so are steps with numbers that are not finite;
    with the latter, ``finite`` is False.

    Args:
        metrics: the logged metrics of each step.
        predicates: whether the model has learned predicates, which must be trained too.
        own_encoder: whether the encoder is from outside. Some of its tensors may wait, those behind a layer that begins
            at zero or for other inputs, so only the step counts in which the fewest are idle.
    """
    usable = [m for m in metrics if m["loss"] is not None and not m.get("nonfinite")]
    logged = sum(m.get("frozen") != "encoder" for m in metrics)
    metrics = [m for m in usable if m.get("frozen") != "encoder"]

    def values(key: str) -> list[float]:
        return [m[key] for m in metrics if m.get(key) is not None]

    coverage = [m.get("encoder.coverage") for m in metrics]
    norms = [m.get("encoder.grad_norm_pre_clip") or 0.0 for m in metrics]
    # None where all weights were zero before they moved, so that there is no relative distance.
    moved = [m.get("encoder.moved", 0.0) for m in metrics]
    dead = [m.get("encoder.params_idle") or 0 for m in metrics]
    return GradientFacts(
        steps=len(metrics),
        coverage_low=_low(values("encoder.coverage")),
        coverage_mean=_mean(values("encoder.coverage")),
        reset_share=_mean(values("reset_share")),
        uncovered_steps=sum(c is None or c < 1 for c in coverage),
        without_gradient=sum(n == 0 for n in norms),
        without_movement=sum(v == 0 for v in moved),
        dead_tensors=(min if own_encoder else max)(dead, default=0),
        gradient_low=_low(norms),
        moved_low=_low([v for v in moved if v is not None]),
        waste_high=_low([-w for w in values("encoder.waste")], sign=-1),
        calls=_mean(values("encoder.calls")),
        calls_with_grad=_mean(values("encoder.calls_with_gradient")),
        finite=len(metrics) == logged,
        predicates=gather_predicates(usable) if predicates else None,
    )


def follows_replaced_weights(runs: Sequence[Sequence[dict[str, Any]]], *, own_encoder: bool = False) -> bool:
    """Whether gradients fail only after a step that was as long as the weights of the encoder or the core.

    Such a step leaves nothing of the first weights. Saturated attention and halting then have zero gradients although
    the code is right, so the size of the steps may be the fault.

    Args:
        runs: the logged metrics of each run, step by step.
        own_encoder: see :func:`gather`.
    """

    def fails(metrics: Sequence[dict[str, Any]]) -> bool:
        return gather(metrics, own_encoder=own_encoder).holds

    def until_replaced(metrics: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """The steps whose gradients were computed before the weights were replaced."""
        moved = (max(m.get(f"{part}.moved") or 0.0 for part in ("encoder", "core")) for m in metrics)
        return metrics[: next((i + 1 for i, ratio in enumerate(moved) if ratio >= 1), len(metrics))]

    return any(map(fails, runs)) and not any(fails(until_replaced(metrics)) for metrics in runs)


def _mean(values: Sequence[float]) -> Value:
    return sum(values) / len(values) if values else NotMeasured(absent="no step logged it")


def _low(values: Sequence[float], sign: int = 1) -> Value:
    return sign * min(values) if values else NotMeasured(absent="no step has one")
