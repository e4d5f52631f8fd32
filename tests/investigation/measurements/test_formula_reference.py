"""Truths of a solver against the reference: equal in a sound one, and different where the meaning is another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from etrm.config import load, with_settings
from etrm.data import Sample, build_evaluation_samples
from etrm.investigation.measurements.formula_reference import compare_truths
from etrm.model.construct import build_variant
from etrm.model.symbolic_variant import SymbolicVariant
from etrm.symbolic import parse_formula
from etrm.symbolic.formula import has_quantifier
from etrm.symbolic.semantics import Semantics
from etrm.training.task_sets import load_held_out_tasks


def made(**symbolic: Any) -> tuple[SymbolicVariant, list[Sample]]:
    config = with_settings(
        load("symbolic-rules"), model={"symbolic": symbolic}, evaluate={"max_tasks": 4}, data={"max_side": 4}
    )
    torch.manual_seed(0)
    model = build_variant(config.model)
    assert isinstance(model, SymbolicVariant)
    return model, list(build_evaluation_samples(load_held_out_tasks(config), config.data, 1, 0))


FAMILIES: list[dict[str, Any]] = [
    {"guards": 3},
    {"guards": 3, "quantifier": "mean", "exponent": 2.0, "tnorm": "lukasiewicz"},
    {"families": ("relational", "topological")},
]


@pytest.mark.parametrize("symbolic", FAMILIES, ids=str)
def test_a_sound_solver_has_the_truths_of_the_reference(symbolic: dict[str, Any]) -> None:
    found = compare_truths(*made(**symbolic))
    assert found is not None
    assert not found.differs
    assert found.conditions > 3
    assert found.cells >= 4


@dataclass(frozen=True)
class _Smaller(Semantics):
    """Conjunctions that are a little less true; formulas without one stay right."""

    def conjunction(self, left: Tensor, right: Tensor) -> Tensor:
        return 0.99 * super().conjunction(left, right)


def test_another_meaning_is_seen_in_the_formulas_that_have_it() -> None:
    model, samples = made(guards=3)
    model.core.templates.semantics = _Smaller()
    found = compare_truths(model, samples)
    assert found is not None
    assert found.differs
    assert has_quantifier(
        parse_formula(found.formula)
    )  # a learned pair: the only conditions with a conjunction


def test_a_truth_that_is_no_number_differs() -> None:
    model, samples = made(guards=3)
    with torch.no_grad():
        for parameter in model.core.predicates.parameters():
            parameter.fill_(float("nan"))
    found = compare_truths(model, samples)
    assert found is not None
    assert found.differs


def test_a_library_of_whole_rules_has_nothing_to_compare() -> None:
    model, samples = made(guards=3)
    model.core.templates.conditions = ()
    assert compare_truths(model, samples) is None


def test_a_query_of_one_cell_is_not_used() -> None:
    model, samples = made(guards=3)
    single = replace(samples[0], tokens=np.array([5, 1, 1, 0]), positions=np.array([0, 1, 30, 31]))
    found = compare_truths(model, [single, *samples])
    assert found is not None
    assert found.cells == min(int((sample.tokens > 1).sum()) for sample in samples) >= 4
