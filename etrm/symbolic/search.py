"""Search over a library by demonstration fit, without training: what a trained selector has to surpass.

Everything here is crisp: grids have one colour per cell, and a formula holds or does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etrm.errors import ArgumentError
from etrm.symbolic.formula import Also, And, Formula, Rule, Where
from etrm.symbolic.grids import Grids
from etrm.symbolic.library import Library, recolour
from etrm.symbolic.predicates import Predicates
from etrm.symbolic.semantics import Semantics
from etrm.symbolic.tensor_evaluator import Evaluator, apply_rule

Array = np.ndarray[Any, Any]
"""A grid of colours, (rows, columns) of integers."""
Demo = tuple[Array, Array]
"""An input and its output."""
CRISP = Semantics("goedel", "minimum")
"""Exact on truths of 0 and 1."""


@dataclass(frozen=True)
class Explanation:
    """A rule, and how well it explains demonstrations.

    Attributes:
        rule: the rule.
        fit: mean over the demonstrations of the share of cells that it gets right; 0 where the size is wrong.
    """

    rule: Rule
    fit: float


def rank_rules(demos: Sequence[Demo], library: Library) -> list[Explanation]:
    """The rules of a library that fit best, best first; among equals in the order of the library, recolourings first.

    Args:
        demos: inputs and outputs.
        library: the predicates to search; learned ones are skipped, because they have no meaning before training.

    Raises:
        ArgumentError: there are no demonstrations.
    """
    recolouring = find_recolouring(demos, library.conditions)
    found = [] if recolouring is None else [Explanation(recolouring, 1.0)]
    found += [Explanation(rule, measure_fit(rule, demos)) for rule in library.rules]
    return sorted(found, key=lambda explanation: -explanation.fit)


def apply_crisply(rule: Rule, grids: Sequence[Array]) -> list[Array]:
    """What a rule makes of each grid."""
    painted: list[Array] = list(apply_rule(rule, Grids.of(grids), _PREDICATES, CRISP).arrays())
    return painted


def measure_fit(rule: Rule, demos: Sequence[Demo]) -> float:
    """Mean over the demonstrations of the share of cells that a rule gets right.

    Raises:
        ArgumentError: there are no demonstrations.
    """
    _check(demos)
    found = apply_crisply(rule, [given for given, _ in demos])
    return float(
        np.mean([measure_agreement(made, wanted) for made, (_, wanted) in zip(found, demos, strict=True)])
    )


def measure_agreement(made: Array, wanted: Array) -> float:
    """The share of cells that are right; 0 where the size is wrong."""
    return float((made == wanted).mean()) if made.shape == wanted.shape and made.size else 0.0


def find_recolouring(demos: Sequence[Demo], conditions: Sequence[Formula]) -> Rule | None:
    """A rule that recolours cells by their conditions and explains every demonstration, or None.

    For every two colours that the demonstrations show, from and to, it takes the first condition that holds for
    exactly those cells of the one colour that become the other; where there is none, the first two that do so together.

    Raises:
        ArgumentError: there are no demonstrations.
    """
    _check(demos)
    if any(given.shape != wanted.shape for given, wanted in demos):
        return None
    before, after = (np.concatenate([pair[side].ravel() for pair in demos]) for side in (0, 1))
    changes = sorted({(int(a), int(b)) for a, b in zip(before, after, strict=True) if a != b})
    usable = [condition for condition in conditions if not _is_learned(condition)]
    if not changes or not usable:
        return None
    truths = _truths([given for given, _ in demos], usable)
    rules: list[Where] = []
    for source, target in changes:
        cells = truths[:, torch.from_numpy(before == source)]
        condition = _exact(cells, torch.from_numpy(after[before == source] == target), usable)
        if condition is None:
            return None
        rules.append(recolour(condition, source, target))
    first: Where | Also = rules[0]
    return reduce(Also, rules[1:], first)


_PREDICATES = Predicates()


def _check(demos: Sequence[Demo]) -> None:
    if not demos:
        raise ArgumentError("search.no-demonstrations", "a search needs a demonstration, got none")


def _is_learned(formula: Formula) -> bool:
    text = str(formula)
    return "learned(" in text or "related(" in text


def _truths(inputs: Sequence[Array], conditions: Sequence[Formula]) -> Tensor:
    """(A, cells) bool, whether each condition holds for each cell of all inputs, row by row."""
    grids = Grids.of(inputs)
    evaluator = Evaluator(grids, _PREDICATES, CRISP)
    mask = grids.mask.flatten(1)
    return torch.stack([evaluator.truth(condition)[mask] > 0.5 for condition in conditions])


def _exact(truths: Tensor, wanted: Tensor, conditions: Sequence[Formula]) -> Formula | None:
    """The first condition, or else the first two, that hold for exactly the wanted cells.

    Args:
        truths: (A, cells) bool.
        wanted: (cells,) bool.
        conditions: A formulas.
    """
    complete = truths[:, wanted].all(1).nonzero().flatten()
    elsewhere = truths[complete][:, ~wanted].float()
    exact = (elsewhere.sum(1) == 0).nonzero().flatten()
    if len(exact):
        return conditions[int(complete[exact[0]])]
    both = (elsewhere @ elsewhere.T == 0).nonzero()
    if not len(both):
        return None
    first, second = both[both.sum(1).argmin()]
    return And(*(conditions[int(complete[index])] for index in (first, second)))
