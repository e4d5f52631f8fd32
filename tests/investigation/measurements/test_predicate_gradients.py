"""What logged steps show about learned predicates: every way in which none of them is trained, and what is no fault."""

from __future__ import annotations

from typing import Any

import pytest

from etrm.investigation.measurements.encoder_gradients import GradientReason, gather
from etrm.investigation.measurements.predicate_gradients import (
    PredicateReason,
    gather_predicates,
    make_predicate_rows,
)

STEPS = 6
CUT = {"grad_norm_pre_clip": None, "moved": 0.0, "params_idle": 10, "params_none": 10}
ZERO = {"grad_norm_pre_clip": 0.0, "moved": 0.0, "params_idle": 10, "params_zero": 10}


def step(**changes: Any) -> dict[str, Any]:
    """A step of a healthy solver, with some values of the core changed."""
    encoder = {"coverage": 1.0, "grad_norm_pre_clip": 0.5, "moved": 1e-3, "params_idle": 0}
    core = {"grad_norm_pre_clip": 0.1, "moved": 1e-3, "params_idle": 0, "params_zero": 0} | changes
    parts = {"encoder": encoder, "core": core}
    return {"loss": 1.0} | {f"{part}.{key}": value for part, of in parts.items() for key, value in of.items()}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        (CUT, PredicateReason.NO_GRADIENT),
        (ZERO, PredicateReason.ZERO_GRADIENT),
        ({"grad_norm_pre_clip": None, "moved": None}, PredicateReason.UNREGISTERED),
        ({"moved": 0.0, "params_idle": 10}, PredicateReason.NO_MOVEMENT),
        ({"params_idle": 2}, PredicateReason.IDLE_TENSORS),
    ],
)
def test_predicates_that_no_step_trains(changes: dict[str, Any], code: PredicateReason) -> None:
    every = [step(**changes)] * STEPS
    facts = gather(every, predicates=True)
    assert facts.holds
    assert facts.codes == (code,)
    assert not all(row.passed in (True, None) for row in make_predicate_rows(gather_predicates(every)))
    assert gather(every).codes == (GradientReason.EVERY_STEP_TRAINS,), (
        "the core of other models is no encoder"
    )


@pytest.mark.parametrize("changes", [CUT, ZERO, {"moved": 0.0, "params_idle": 10}, {"params_idle": 2}])
def test_one_step_that_trains_them_is_enough(changes: dict[str, Any]) -> None:
    """A sampled template trains its own predicates alone."""
    some = [step(**changes)] * STEPS + [step()]
    assert not gather(some, predicates=True).holds
    assert all(row.passed in (True, None) for row in make_predicate_rows(gather_predicates(some)))


def test_a_core_that_the_settings_freeze_accuses_nobody() -> None:
    frozen = [step(**CUT) | {"frozen": "decoder"}] * STEPS
    assert not gather(frozen, predicates=True).holds
    assert gather([*frozen, step(**CUT)], predicates=True).codes == (PredicateReason.NO_GRADIENT,)


def test_a_step_with_numbers_that_are_not_finite_does_not_count() -> None:
    broken = step() | {"nonfinite": ["core.moved"]}
    assert gather([step(**ZERO), broken], predicates=True).codes == (PredicateReason.ZERO_GRADIENT,)
