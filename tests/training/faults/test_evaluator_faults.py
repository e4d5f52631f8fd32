"""Faults of the evaluator that act on formulas, measured on their truths."""

from __future__ import annotations

import pytest
import torch

from etrm.config import load, with_settings
from etrm.errors import ConfigError
from etrm.investigation.measurements.formula_reference import compare_truths
from etrm.investigation.runs.measured_run import training_queries
from etrm.model.symbolic_variant import SymbolicVariant
from etrm.symbolic import Grids, parse_formula
from etrm.symbolic.formula import has_quantifier
from etrm.training.trainer import Trainer
from tests.errors import raises_code


def solver(*faults: str) -> Trainer:
    return Trainer(
        with_settings(
            load("symbolic-rules"),
            faults=faults,
            data={"max_tasks": 20, "max_side": 4},
            model={"symbolic": {"guards": 3, "families": ("relational", "learned")}},
            train={"threads": 1},
            monitor={"enabled": False},
        )
    )


def test_quantifiers_over_one_cell_have_the_truth_of_the_first_cell() -> None:
    model = solver("quantifier-one-cell").model
    assert isinstance(model, SymbolicVariant)
    templates = model.core.templates
    assert model.encoder.templates is templates
    grids = Grids.of([[[3, 0], [0, 0]], [[0, 0, 3]]])
    places = {str(condition): place for place, condition in enumerate(templates.conditions)}
    truths = templates.truths(grids)
    touching = truths[:, places[str(parse_formula("exists y: touching(x, y) and colour(y, 3)"))]]
    # the first grid has colour 3 in its first cell, the second does not
    assert touching[0].view(2, 3)[:, :2].tolist() == [[0, 1], [1, 0]]
    assert not touching[1].any()


def test_the_reference_differs_in_quantified_formulas_alone() -> None:
    for faults in ((), ("quantifier-one-cell",)):
        trainer = solver(*faults)
        assert isinstance(trainer.model, SymbolicVariant)
        found = compare_truths(trainer.model, training_queries(trainer))
        assert found is not None
        assert found.differs == bool(faults)
        assert not faults or has_quantifier(parse_formula(found.formula))


def test_a_solver_that_is_evaluated_with_noise_trains_as_without() -> None:
    steps = [solver(*faults).train_step() for faults in ((), ("noisy-evaluation",))]
    assert steps[0]["loss"] == steps[1]["loss"]


def test_noise_selects_other_templates_at_every_call() -> None:
    trainer = solver("noisy-evaluation")
    slots, model = trainer.slots[0], trainer.model.eval()
    slots.refill([True] * len(slots.indices))
    batch = slots.batch()
    with torch.no_grad():
        best = [model(trainer.carries[0], batch)[1].context.argmax(-1) for _ in range(5)]
    assert len({tuple(found.flatten().tolist()) for found in best}) == 5


@pytest.mark.slow
def test_quantifiers_are_not_narrowed_where_there_is_none() -> None:
    config = with_settings(
        load("symbolic-rules"),
        faults=("quantifier-one-cell",),
        model={"symbolic": {"families": ("original",)}},
    )
    with raises_code(ConfigError, "fault.needs-quantifiers", "original"):
        Trainer(config)
