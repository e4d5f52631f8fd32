"""Gradients of the solver against the loss that training computes, and comparisons of planted gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from etrm.config import Config, load, with_settings
from etrm.errors import NonFiniteError
from etrm.investigation.measurements.solver_step import (
    SolverStep,
    build_step,
    compare_gradients,
    count_reached,
    measure_responses,
    with_other_faults,
)
from etrm.model.recursive import RecursiveModel
from etrm.training.trainer import Trainer
from tests.errors import raises_code


def small(*faults: str, **settings: Any) -> Config:
    changes: Any = {"data": {"max_tasks": 8, "max_side": 3}, "train": {"batch_size": 4, "threads": 1}}
    symbolic = {"guards": 2, "width": 4}
    return with_settings(
        load("symbolic-rules"), faults=faults, model={"symbolic": symbolic}, **changes | settings
    )


def total(step: SolverStep) -> float:
    return sum(float(term.detach()) for term in step.compute_terms()[1].values())


def test_the_loss_of_a_step_falls_along_its_gradient() -> None:
    step = build_step(small())
    weights = step.predicates
    assert len(weights) == 10
    gradients = step.compute_gradients(weights)
    before = total(step)
    squared = sum(float(grad.double().square().sum()) for grad in gradients.values() if grad is not None)
    with torch.no_grad():
        for name, weight in weights.items():
            grad = gradients[name]
            assert grad is not None
            weight -= 1e-3 * grad
    assert before - total(step) == pytest.approx(1e-3 * squared, rel=0.05)


def test_weights_and_queries_can_be_those_of_another_model() -> None:
    first = build_step(with_settings(small(), train={"seed": 3}))
    second = build_step(small(), first.samples, first.model.state_dict())
    assert torch.equal(first.answer, second.answer)
    assert not torch.equal(build_step(small(), first.samples).answer, first.answer)


def test_a_term_has_its_own_gradient() -> None:
    step = build_step(small())
    whole, lm = step.compute_gradients(step.predicates), step.compute_gradients(step.predicates, "lm")
    assert compare_gradients(whole, lm) < 1e-6  # the constant halting logit teaches nothing
    assert count_reached(step.compute_gradients(step.predicates, "q_halt")) == 0


def test_the_settings_of_a_fault_stay_and_its_code_goes() -> None:
    found = with_other_faults(small("cycles-no-grad"), "predicates-item")
    assert found.faults == ("predicates-item",)
    assert (found.model.symbolic.cycle_grad, found.model.symbolic.inject) == ("last", "start")


@pytest.mark.parametrize(
    ("reference", "other", "apart"),
    [
        ({"a": torch.tensor([4.0, 2.0])}, {"a": torch.tensor([4.0, 1.0])}, 0.25),
        ({"a": torch.tensor([4.0])}, {"a": None}, 1.0),
        ({"a": torch.tensor([4.0]), "b": None}, {"a": torch.tensor([4.0]), "b": torch.tensor([2.0])}, 0.5),
        ({"a": None}, {"a": None}, 0.0),
        ({"a": None}, {"a": torch.tensor([1.0])}, math.inf),
        ({"a": torch.tensor([4.0])}, {"a": torch.tensor([math.nan])}, math.inf),
    ],
)
def test_a_missing_gradient_counts_as_zero(
    reference: dict[str, Tensor | None], other: dict[str, Tensor | None], apart: float
) -> None:
    assert compare_gradients(reference, other) == apart


def test_a_loss_that_is_not_finite_has_no_response() -> None:
    step = build_step(small())
    with torch.no_grad():
        next(iter(step.predicates.values())).fill_(float("nan"))
    with raises_code(NonFiniteError, "investigate.nonfinite-term"):
        step.probe_terms()


def test_the_response_of_a_config_is_measured_once() -> None:
    assert measure_responses(small()) is measure_responses(small())
    assert measure_responses(small()) is not measure_responses(small("assignment-lost"))


def test_zero_is_no_gradient() -> None:
    assert count_reached({"a": torch.zeros(2), "b": None, "c": torch.tensor([0.0, 1.0])}) == 1
    tautology = build_step(small("tautology-guard"))
    assert count_reached(tautology.compute_gradients(tautology.predicates)) == 0


def test_predicates_in_no_module_have_no_weights_here() -> None:
    assert build_step(small("predicates-unregistered")).predicates == {}


def test_it_is_about_the_symbolic_solver(subject: Config) -> None:
    step = build_step(small())
    recursive = Trainer(with_settings(subject, monitor={"enabled": False}))
    assert isinstance(recursive.model, RecursiveModel)
    with pytest.raises(AssertionError):
        _ = replace(step, trainer=recursive).model
