"""The reference evaluator: one grid, one cell, one pair at a time, in Python loops whose results are stacked.

It computes what :mod:`etrm.symbolic.tensor_evaluator` does, with the same gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from etrm.symbolic.formula import (
    CELL,
    Also,
    And,
    Atom,
    Exists,
    ForAll,
    Formula,
    Implies,
    Map,
    Not,
    Or,
    Rule,
    Then,
)
from etrm.symbolic.grids import Cells, Grids
from etrm.symbolic.maps import make_black, map_cells
from etrm.symbolic.predicates import Predicates, select_number
from etrm.symbolic.semantics import Semantics, paint
from etrm.symbolic.tensor_evaluator import check_variables

Place = tuple[int, int]
"""Row and column of a cell."""


def evaluate_formula(
    formula: Formula,
    grids: Grids,
    predicates: Predicates,
    semantics: Semantics,
    variables: Sequence[str] = (CELL,),
) -> Tensor:
    """How true a formula is, as :func:`etrm.symbolic.tensor_evaluator.evaluate_formula` has it.

    Raises:
        FormulaError: a free variable is not among the variables, or a learned predicate does not exist.
    """
    check_variables(formula, variables)
    height, width = grids.shape
    every = list(product(range(height), range(width)))
    zero = grids.colours.new_zeros(())
    truths = []
    for index in range(grids.size):
        scene = _Scene(grids.select(index), predicates, semantics)
        existing = set(scene.places)
        for chosen in product(every, repeat=len(variables)):
            exist = existing.issuperset(chosen)
            truths.append(scene.truth(formula, dict(zip(variables, chosen, strict=True))) if exist else zero)
    return torch.stack(truths).view(grids.size, *[len(every)] * len(variables))


def apply_rule(rule: Rule, grids: Grids, predicates: Predicates, semantics: Semantics) -> Grids:
    """What a rule makes of grids, as :func:`etrm.symbolic.tensor_evaluator.apply_rule` has it.

    Raises:
        FormulaError: a learned predicate does not exist.
    """
    if isinstance(rule, Then):
        first = apply_rule(rule.first, grids, predicates, semantics)
        return apply_rule(rule.second, first, predicates, semantics)
    made = make_black(grids, rule)
    cells = []
    for index, exists in enumerate(made.mask.tolist()):
        scene = _Scene(grids.select(index), predicates, semantics)
        for row, column in product(*map(range, made.shape)):
            cell = (
                scene.painted(rule, (row, column))
                if exists[row][column]
                else made.colours[index, row, column]
            )
            cells.append(cell)
    return Grids(torch.stack(cells).view_as(made.colours), made.heights, made.widths)


class _Scene:
    """One grid."""

    def __init__(self, grids: Grids, predicates: Predicates, semantics: Semantics) -> None:
        self.grids, self.predicates, self.semantics = grids, predicates, semantics
        self.places = list(product(range(int(grids.heights)), range(int(grids.widths))))

    def truth(self, formula: Formula, values: Mapping[str, Place]) -> Tensor:
        """The truth for one assignment of places to the free variables, a scalar."""
        meaning = self.semantics
        match formula:
            case Atom():
                return self._atom(formula, values)
            case Not(body):
                return meaning.negation(self.truth(body, values))
            case And(left, right):
                return meaning.conjunction(self.truth(left, values), self.truth(right, values))
            case Or(left, right):
                return meaning.disjunction(self.truth(left, values), self.truth(right, values))
            case Implies(left, right):
                return meaning.implication(self.truth(left, values), self.truth(right, values))
            case ForAll(variable, body):
                return meaning.forall(*self._all(variable, body, values))
            case Exists(variable, body):
                return meaning.exists(*self._all(variable, body, values))

    def painted(self, rule: Rule, place: Place) -> Tensor:
        """(C,) distribution over the colours of one cell of the output."""
        assert not isinstance(rule, Then)
        previous = self.painted(rule.first, place) if isinstance(rule, Also) else self._cell(place).colours
        step = rule.second if isinstance(rule, Also) else rule
        if isinstance(step.value, Map):
            value = map_cells(self._cell(place), step.value).colours
        else:
            value = torch.zeros_like(previous)
            value[step.value] = 1
        return paint(self.truth(step.guard, {CELL: place}), value, previous)

    def _all(self, variable: str, body: Formula, values: Mapping[str, Place]) -> tuple[Tensor, Tensor]:
        truths = [self.truth(body, {**values, variable: place}) for place in self.places]
        stacked = torch.stack(truths) if truths else self.grids.colours.new_zeros(1)
        return stacked, torch.full((len(stacked),), bool(truths), device=stacked.device)

    def _atom(self, atom: Atom, values: Mapping[str, Place]) -> Tensor:
        if not atom.cells:
            return self.grids.colours.new_ones(())
        cells = []
        for cell in atom.cells:
            found = self._cell(values[cell.variable])
            cells.append(found if cell.map is None else map_cells(found, cell.map))
        return select_number(atom, self.predicates(atom.name, *cells))

    def _cell(self, place: Place) -> Cells:
        device = self.grids.colours.device
        batch, row, column = (torch.tensor(number, device=device) for number in (0, *place))
        return Cells(self.grids, batch, row, column)
