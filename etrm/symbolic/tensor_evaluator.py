"""The evaluator that a model uses: all cells of a formula or rule at once, every variable an axis of a tensor.

Shapes: B grids, H rows and W columns, N = H * W cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from etrm.errors import FormulaError
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
    Where,
    free_variables,
)
from etrm.symbolic.grids import Cells, Grids
from etrm.symbolic.maps import make_black, map_cells
from etrm.symbolic.predicates import Predicates, select_number
from etrm.symbolic.semantics import Semantics, paint

Axes = Mapping[str, int]
"""The axis of each variable in scope, from 1; axis 0 is the batch."""


def check_variables(formula: Formula, variables: Sequence[str]) -> None:
    """Refuse a formula with a free variable that has no value.

    Raises:
        FormulaError: there is one.
    """
    others = free_variables(formula).difference(variables)
    if others:
        raise FormulaError(
            "formula.unbound-variable",
            "a variable of the formula has no value",
            got=", ".join(sorted(others)),
            allowed=", ".join(variables) or "a formula without free variables",
        )


class Evaluator:
    """Evaluates formulas on the same grids; atoms that several formulas share are computed once.

    Args:
        grids: the grids that formulas are about.
        predicates: the meaning of the atoms.
        semantics: the meaning of connectives and quantifiers.
    """

    def __init__(self, grids: Grids, predicates: Predicates, semantics: Semantics) -> None:
        self.grids, self.predicates, self.semantics = grids, predicates, semantics
        self._known: dict[Any, Any] = {}

    def truth(self, formula: Formula, variables: Sequence[str] = (CELL,)) -> Tensor:
        """How true the formula is for every assignment of cells to its free variables.

        Args:
            formula: the formula to evaluate.
            variables: the order of the axes; all free variables are among them.

        Returns:
            (B, N, ...) with an axis for each variable; 0 where a cell does not exist.

        Raises:
            FormulaError: a free variable is not among the variables, or a learned predicate does not exist.
        """
        check_variables(formula, variables)
        axes = {name: axis for axis, name in enumerate(variables, start=1)}
        truth = self._truth(formula, axes, len(variables))
        for axis in axes.values():
            truth = truth * self._mask(axis, len(variables))
        return truth.expand(self.grids.size, *[self._cells] * len(variables))

    def painted(self, rule: Where | Also) -> Tensor:
        """(B, H, W, C) distribution over colours that one step of a rule makes on the same canvas."""
        previous = self.painted(rule.first) if isinstance(rule, Also) else self.grids.colours
        step = rule.second if isinstance(rule, Also) else rule
        guard = self.truth(step.guard).view(self.grids.mask.shape)
        return paint(guard, self._values(step.value), previous)

    @property
    def _cells(self) -> int:
        height, width = self.grids.shape
        return height * width

    def _truth(self, formula: Formula, axes: Axes, rank: int) -> Tensor:
        """A tensor of 1 + rank axes; axes that the truth does not depend on may have length 1."""
        meaning = self.semantics
        match formula:
            case Atom():
                return self._atom(formula, axes, rank)
            case Not(body):
                return meaning.negation(self._truth(body, axes, rank))
            case ForAll(variable, body) | Exists(variable, body):
                inner = self._truth(body, {**axes, variable: rank + 1}, rank + 1)
                truths = inner.expand(*inner.shape[:-1], self._cells)
                over = meaning.forall if isinstance(formula, ForAll) else meaning.exists
                return over(truths, self._mask(rank + 1, rank + 1))
        left, right = self._truth(formula.left, axes, rank), self._truth(formula.right, axes, rank)
        match formula:
            case And():
                return meaning.conjunction(left, right)
            case Or():
                return meaning.disjunction(left, right)
            case Implies():
                return meaning.implication(left, right)

    def _atom(self, atom: Atom, axes: Axes, rank: int) -> Tensor:
        if not atom.cells:
            return self.grids.colours.new_ones((1,) * (1 + rank))
        places = tuple((axes[cell.variable], cell.map) for cell in atom.cells)
        key = (atom.name, places, rank)
        if key not in self._known:
            views = [self._view(*place, rank) for place in places]
            self._known[key] = self.predicates(atom.name, *views)
        return select_number(atom, self._known[key])

    def _view(self, axis: int, mapping: Map | None, rank: int) -> Cells:
        """All cells along one axis."""
        key = (axis, mapping, rank)
        if key not in self._known:
            index = torch.arange(self._cells, device=self.grids.colours.device)
            index = self._along(index[None], axis, rank)
            batch = torch.arange(self.grids.size, device=index.device).view(-1, *[1] * rank)
            width = self.grids.shape[1]
            cells = Cells(self.grids, batch, index // width, index % width)
            self._known[key] = cells if mapping is None else map_cells(cells, mapping)
        found: Cells = self._known[key]
        return found

    def _along(self, values: Tensor, axis: int, rank: int) -> Tensor:
        """(1 or B, N) values with their cells on an axis of 1 + rank."""
        shape = [1] * (1 + rank)
        shape[0], shape[axis] = values.shape
        return values.reshape(shape)

    def _mask(self, axis: int, rank: int) -> Tensor:
        return self._along(self.grids.mask.flatten(1), axis, rank)

    def _values(self, value: int | Map) -> Tensor:
        """(..., H, W, C) distribution that a step paints with, on the canvas of the grids."""
        if isinstance(value, int):
            colour = self.grids.colours.new_zeros(self.grids.colours.shape[-1])
            colour[value] = 1
            return colour
        return self._view(1, value, 1).colours.view(self.grids.colours.shape)


def evaluate_formula(
    formula: Formula,
    grids: Grids,
    predicates: Predicates,
    semantics: Semantics,
    variables: Sequence[str] = (CELL,),
) -> Tensor:
    """How true one formula is, see :meth:`Evaluator.truth`."""
    return Evaluator(grids, predicates, semantics).truth(formula, variables)


def apply_rule(rule: Rule, grids: Grids, predicates: Predicates, semantics: Semantics) -> Grids:
    """What a rule makes of grids: distributions over colours, of the size that the rule gives.

    Raises:
        FormulaError: a learned predicate does not exist.
    """
    if isinstance(rule, Then):
        first = apply_rule(rule.first, grids, predicates, semantics)
        return apply_rule(rule.second, first, predicates, semantics)
    made = make_black(grids, rule)
    if isinstance(rule, Where) and rule.resizes is not None:
        batch, row, column = (torch.arange(n, device=made.heights.device) for n in made.mask.shape)
        colours = map_cells(Cells(grids, batch[:, None, None], row[:, None], column), rule.resizes).colours
    else:
        colours = Evaluator(grids, predicates, semantics).painted(rule)
    colours = torch.where(made.mask[..., None], colours, made.colours)
    return Grids(colours, made.heights, made.widths)
