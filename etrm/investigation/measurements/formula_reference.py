"""The truths that a symbolic solver computes, against the reference evaluator, which takes one cell at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from etrm.data import Sample
from etrm.data.tokens import FIRST_COLOUR
from etrm.model.symbolic_variant import SymbolicVariant
from etrm.symbolic import loop_evaluator
from etrm.symbolic.batches import read_queries
from etrm.symbolic.formula import Formula, has_quantifier
from etrm.symbolic.semantics import Semantics
from etrm.training.scoring.predictor import make_batch

TOLERANCE = 1e-4
"""Largest difference of two truths that counts as rounding; that of the evaluators is below 1e-5."""
CONDITIONS = 8
"""Number of conditions with a quantifier, and of those without, that are compared."""
FEWEST_CELLS = 4
"""Cells of the smallest grid that is used: on a single cell every quantifier is right."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class TruthComparison:
    """Truths of the model's conditions on one query.

    Attributes:
        gap: the largest difference of a truth.
        formula: the formula with that difference.
        conditions: number of formulas that were compared.
        cells: number of cells of the query.
    """

    gap: float
    formula: str
    conditions: int
    cells: int

    @property
    def differs(self) -> bool:
        """Whether a truth is not that of the reference."""
        return not self.gap <= TOLERANCE


@torch.no_grad()
def compare_truths(model: SymbolicVariant, samples: Sequence[Sample]) -> TruthComparison | None:
    """Compare the truths of some conditions of a model on the smallest query with those of the reference.

    The reference has the predicates of the model, and semantics of its own, from the config.

    Returns:
        None where the library has no condition.
    """
    templates = model.core.templates
    if not templates.conditions:
        return None
    grids = read_queries(make_batch(model, [_find_smallest(samples)])).grids
    found = templates.truths(grids)[0]
    meaning = Semantics.of(model.config.symbolic)
    gaps = {}
    for place in _choose(templates.conditions):
        condition = templates.conditions[place]
        wanted = loop_evaluator.evaluate_formula(condition, grids, templates.predicates, meaning)[0]
        gaps[str(condition)] = float((found[place] - wanted).abs().max())
    worst = max(gaps, key=lambda text: gaps[text])
    return TruthComparison(gaps[worst], worst, len(gaps), int(grids.mask.sum()))


def _find_smallest(samples: Sequence[Sample]) -> Sample:
    """The sample with the smallest query of at least so many cells, or the largest one if none has them."""
    sizes = [int((sample.tokens >= FIRST_COLOUR).sum()) for sample in samples]
    enough = [size for size in sizes if size >= FEWEST_CELLS]
    return samples[sizes.index(min(enough) if enough else max(sizes))]


def _choose(conditions: Sequence[Formula]) -> list[int]:
    """Evenly spaced places of conditions, some with a quantifier and some without."""
    quantified = [has_quantifier(condition) for condition in conditions]
    with_one, without = ([i for i, q in enumerate(quantified) if q is wanted] for wanted in (True, False))
    return [*_spread(with_one), *_spread(without)]


def _spread(items: list[Item]) -> list[Item]:
    return items[:: -(-len(items) // CONDITIONS) or 1]
