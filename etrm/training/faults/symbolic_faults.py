"""Faults of the symbolic solver: assignments that do nothing, and learned weights that get no gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from etrm.config import Changes, Config
from etrm.device import to_device
from etrm.model.symbolic_variant import SymbolicVariant
from etrm.model.variant import Variant
from etrm.symbolic.formula import TRUE, Also, Formula, Implies, Rule, Then, Where
from etrm.symbolic.grids import Cells, Grids
from etrm.symbolic.predicates import FIXED, Predicates
from etrm.symbolic.templates import Templates, as_tokens
from etrm.training.faults.seam import Fault, change_model, change_settings
from etrm.training.recipe import Recipe

# -- templates ------------------------------------------------------------------------------------


class _LostAssignments(Templates):
    """Templates that paint a copy of the query and return the query."""

    def paint(
        self, weights: Tensor, queries: Grids, region: tuple[int, int], guards: Tensor | None = None
    ) -> Tensor:
        """The mixture of what all templates return; each of them returns its input."""
        total = weights.sum(1)[:, None, None, None]
        unchanged = Grids(queries.colours * total, queries.heights, queries.widths)
        return as_tokens(unchanged, region, total)


def _assignment_lost(recipe: Recipe) -> Recipe:
    return _change_templates(
        recipe, lambda given: _rebuild(_LostAssignments, given, given.rules, given.conditions)
    )


def _tautology_guard(recipe: Recipe) -> Recipe:
    def change(given: Templates) -> Templates:
        rules, conditions = map(_apply_always, given.rules), map(_imply_assignment, given.conditions)
        return _rebuild(Templates, given, tuple(rules), tuple(conditions))

    return _change_templates(recipe, change)


def _imply_assignment(guard: Formula) -> Formula:
    """The formula "if the guard holds, then the assignment is made". It is made, so the truth is 1 - p + p = 1."""
    return guard if guard == TRUE else Implies(guard, TRUE)


def _apply_always(rule: Rule) -> Rule:
    if isinstance(rule, Then):
        return Then(_apply_always(rule.first), _apply_always(rule.second))
    return _paint_always(rule)


def _paint_always(rule: Where | Also) -> Where | Also:
    if isinstance(rule, Also):
        return Also(
            _paint_always(rule.first), replace(rule.second, guard=_imply_assignment(rule.second.guard))
        )
    return replace(rule, guard=_imply_assignment(rule.guard))


def _rebuild(
    kind: type[Templates], given: Templates, rules: Sequence[Rule], conditions: Sequence[Formula]
) -> Templates:
    return kind(rules, conditions, given.predicates, given.semantics, given.smoothing, given.pairwise)


def _change_templates(recipe: Recipe, change: Callable[[Templates], Templates]) -> Recipe:
    """Return the recipe with other templates in the encoder, which weighs them, and in the core, which applies them."""

    def replace_both(model: Variant) -> None:
        assert isinstance(model, SymbolicVariant)
        model.core.templates = model.encoder.templates = change(model.core.templates)

    return change_model(recipe, replace_both)


# -- predicates -----------------------------------------------------------------------------------


class _PlainPredicates:
    """Learned predicates in a dict of a plain object, whose weights no module registers."""

    def __init__(self, given: Predicates) -> None:
        self.fixed = Predicates()
        self.learned = {"learned": given.guards, "related": given.pairs}

    def __call__(self, name: str, *cells: Cells) -> Tensor:
        module = self.learned.get(name)
        if module is None:
            return self.fixed(name, *cells)
        return to_device(module, cells[0].row.device)(*cells)  # no .to() of the model reaches it


class _OwnForward(Predicates):
    """Predicates with the modules of other ones."""

    def __init__(self, given: Predicates) -> None:
        super().__init__()
        self.guards, self.pairs = given.guards, given.pairs


class _ReadPredicates(_OwnForward):
    """Predicates whose values are read as Python numbers, which ends their graph."""

    def forward(self, name: str, *cells: Cells) -> Tensor:
        """The truths as new tensors."""
        truths: Tensor = super().forward(name, *cells)
        return truths if name in FIXED else truths.new_tensor(truths.tolist())  # .item() of every value


class _LoopedPredicates(_OwnForward):
    """Learned predicates that are evaluated for one cell, or pair of cells, at a time."""

    def forward(self, name: str, *cells: Cells) -> Tensor:
        """The truths, stacked: a loop in Python ends no graph."""
        parts = torch.broadcast_tensors(*(part for c in cells for part in (c.batch, c.row, c.column)))
        shape = parts[0].shape
        if name in FIXED or len(shape) < 2:  # at most one cell of each grid
            return super().forward(name, *cells)
        flat = [part.flatten(1).unbind(1) for part in parts]
        truths = []
        for place in zip(*flat, strict=True):
            one = [Cells(c.grids, *place[3 * i : 3 * i + 3]) for i, c in enumerate(cells)]
            truths.append(super().forward(name, *one))
        return torch.stack(truths, dim=1).unflatten(1, shape[1:])


def _change_predicates(make: Callable[[Predicates], Any]) -> Callable[[Recipe], Recipe]:
    """Return a fault that replaces the predicates of the core."""

    def change(model: Variant) -> None:
        assert isinstance(model, SymbolicVariant)
        core = model.core
        made = make(core.predicates)
        del core.predicates  # a module cannot be replaced by a plain object
        core.predicates = core.templates.predicates = made

    return lambda recipe: change_model(recipe, change)


# -- selection ------------------------------------------------------------------------------------


def _hard_selection(recipe: Recipe) -> Recipe:
    best: Changes = {
        "model": {"symbolic": {"selection": "hard", "temperature": 1.0, "last_temperature": None}}
    }
    return change_settings(recipe, lambda config: best)


def _cycles_no_grad(recipe: Recipe) -> Recipe:
    def settings(config: Config) -> Changes:
        cycles = max(2, config.model.symbolic.cycles)
        recursion = {"cycles": cycles, "cycle_grad": "last", "inject": "start"}
        return {"model": {"symbolic": {"selector": "demos", "pairwise": False, **recursion}}}

    return change_settings(recipe, settings)


FAULTS = (
    Fault(
        "assignment-lost",
        "assignments are written to a copy of the grid, so the answer is the query",
        "H3",
        "Training loss analysis: a loss that stays at 9.5021, that of copying the input",
        _assignment_lost,
        models="symbolic",
    ),
    Fault(
        "predicates-unregistered",
        "learned predicates are in a dict of a plain object, so no optimiser and no checkpoint has their weights",
        "H2",
        "Training loss analysis: the predicates of its code",
        _change_predicates(_PlainPredicates),
        models="symbolic",
    ),
    Fault(
        "predicates-item",
        "values of learned predicates are read as Python numbers, as by .item(), which ends their graph",
        "H2",
        "Training loss analysis: predicates in a Python loop",
        _change_predicates(_ReadPredicates),
        models="symbolic",
    ),
    Fault(
        "hard-selection",
        "the best template is chosen by argmax, which has no gradient",
        "H2",
        "Training loss analysis: the loss of the pixels never reaches the selector",
        _hard_selection,
        models="symbolic",
    ),
    Fault(
        "cycles-no-grad",
        "the encoding is only the starting state of the cycles, and all but the last run under torch.no_grad",
        "H2",
        "Training loss analysis, issue 1: early cycles without gradient",
        _cycles_no_grad,
        models="symbolic",
    ),
    Fault(
        "tautology-guard",
        "a guard p implies its assignment, which is made: 1 - p + p has a gradient of exactly zero",
        "H2",
        "Training loss analysis: the guards of its code",
        _tautology_guard,
        models="symbolic",
    ),
    Fault(
        "python-loop-predicates",
        "healthy but slow: learned predicates are evaluated cell by cell in a Python loop, which keeps gradients",
        "cost",
        "Training loss analysis, which blames such a loop for missing gradients",
        _change_predicates(_LoopedPredicates),
        models="symbolic",
    ),
)
