"""The symbolic solver as the run under test: healthy it passes, and the faults of gradients and context are seen."""

from __future__ import annotations

from typing import Any

import pytest

from etrm.config import Config, load, with_settings
from etrm.investigation.comparison.gradient_check import SlopeReason, check_slope
from etrm.investigation.hypotheses.h5_data import DataReason, inspect_data
from etrm.investigation.measurements.context_path import trace_context
from etrm.investigation.measurements.encoder_gradients import GradientFacts, GradientReason, gather
from etrm.investigation.measurements.predicate_gradients import PredicateReason
from etrm.training.trainer import Trainer
from tests.sampled import one_in


def rules(**settings: Any) -> Config:
    small = {"data": {"max_tasks": 60}, "train": {"batch_size": 8, "threads": 1}}
    return with_settings(with_settings(load("symbolic-rules"), **small), **settings)


@pytest.mark.parametrize("selection", ["soft", "straight_through"])
def test_the_gradient_of_the_selector_is_the_slope_of_the_loss(selection: str) -> None:
    found = check_slope(rules(model={"symbolic": {"selection": selection}}))
    assert found is not None
    assert found.frozen == 0
    if selection == "soft":  # the other one has the slope of its expectation
        assert found.ratio == pytest.approx(1, abs=0.05)


def test_hard_selection_lets_no_gradient_pass() -> None:
    found = check_slope(rules(model={"symbolic": {"selection": "hard"}}))
    assert found is not None
    assert found.holds


def test_a_healthy_context_passes() -> None:
    seen = trace_context(rules())
    assert not seen.holds, seen.reasons
    assert seen.shape == seen.wanted_shape == (1, 3520)
    assert seen.used > 0.1


def test_outputs_of_a_size_that_no_template_makes_are_read_by_none() -> None:
    """The second of two tasks has taller outputs than inputs: no dihedral transform explains them in any colours."""
    few = {"families": ["dihedral"], "composites": False, "pairwise": False, "guards": 16}
    config = with_settings(
        load("symbolic"), data={"max_tasks": 4}, model={"symbolic": few}, train={"threads": 1}
    )
    assert trace_context(config).unread == ()


def test_the_data_of_a_solver_pass_until_what_is_held_out_is_trained_on() -> None:
    assert not inspect_data(rules()).holds
    leaked = inspect_data(rules(faults=("arc1-in-arc2",)))
    assert leaked.codes == (DataReason.LEAK,)
    assert leaked.leaked.by_id == ()


@pytest.mark.parametrize("fault", ["context-scale", "context-nan", "context-ignored", "context-collapsed"])
def test_a_context_that_changes_on_its_way_is_seen(fault: str) -> None:
    assert trace_context(rules(faults=(fault,))).holds


def test_a_selector_that_sees_the_query_alone_reads_no_demonstration() -> None:
    demos: dict[str, Any] = {"model": {"symbolic": {"selector": "demos", "hidden_size": 16}}}
    assert not trace_context(rules(**demos)).holds
    demos["model"]["symbolic"]["selector"] = "input"
    assert trace_context(rules(**demos)).unused


CYCLES = {"selector": "demos", "hidden_size": 16, "cycle_grad": "last"}
HEALTHY: dict[str, Any] = {
    "fit": {},
    "fixed predicates": {"families": ("original",)},
    "recursion": {**CYCLES, "inject": "every_cycle"},
    "all cycles": {**CYCLES, "cycle_grad": "all", "inject": "start"},
    "sampled": {"selection": "straight_through"},
    "pairwise": {"pairwise": True},
}


def small(*faults: str, **symbolic: Any) -> Config:
    if "learned" in symbolic.get("families", ("learned",)):
        symbolic |= {"guards": 3, "width": 8}
    model = {"symbolic": symbolic}
    return with_settings(
        rules(data={"max_tasks": 60, "max_side": 4}, train={"warmup_steps": 0}), faults=faults, model=model
    )


def facts(config: Config) -> GradientFacts:
    trainer = Trainer(config)
    steps = [trainer.train_step() for _ in range(3)]
    return gather(steps, predicates=trainer.config.model.learns_predicates)


@pytest.mark.parametrize("name", one_in(2, HEALTHY))
def test_a_healthy_solver_is_not_accused(name: str) -> None:
    config = small(**HEALTHY[name])
    assert not facts(config).holds, facts(config).words
    slope = check_slope(config)
    assert slope is not None
    assert slope.outside == slope.frozen == 0
    assert not trace_context(config).holds


@pytest.mark.slow
def test_a_loop_in_python_is_not_accused() -> None:
    config = small("python-loop-predicates")
    assert not facts(config).holds, facts(config).words
    slope = check_slope(config)
    assert slope is not None
    assert not slope.holds
    assert not trace_context(config).holds


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("predicates-unregistered", PredicateReason.UNREGISTERED),
        ("predicates-item", PredicateReason.NO_GRADIENT),
        ("tautology-guard", PredicateReason.ZERO_GRADIENT),
        ("hard-selection", GradientReason.NO_GRADIENT),
        ("cycles-no-grad", GradientReason.IDLE_TENSORS),
    ],
)
def test_each_fault_of_gradients_is_told_by_its_steps(fault: str, code: str) -> None:
    assert code in facts(small(fault)).codes
    assert not trace_context(small(fault)).dropped


def test_weights_in_a_plain_object_are_in_no_optimiser() -> None:
    found = check_slope(small("predicates-unregistered"))
    assert found is not None
    assert found.outside == 10
    assert SlopeReason.IN_NO_OPTIMIZER in found.codes


def test_a_lost_assignment_drops_the_context() -> None:
    assert trace_context(small("assignment-lost")).unused
