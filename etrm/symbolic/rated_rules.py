"""Why the solver answers as it does: its best templates as rules, what they make of each grid, and where they hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from etrm.device import to_host
from etrm.symbolic.evaluate import Evaluator, apply_rule
from etrm.symbolic.formula import Rule, Where
from etrm.symbolic.grids import Grids
from etrm.symbolic.search import Array, measure_agreement
from etrm.symbolic.solver import Demonstrations, SymbolicCore


@dataclass(frozen=True, eq=False)
class RatedRule:
    """A template that the solver may choose for a task.

    Attributes:
        rule: the template as a rule.
        weight: its weight, of 1 for all templates together.
        fits: the share of cells that it gets right in each demonstration; 0 where the size is wrong.
        answer: the grid that it makes of the query.
        guard: (rows, columns) truth of its guard in each cell of the query; None if the rule paints without a guard.
    """

    rule: Rule
    weight: float
    fits: tuple[float, ...]
    answer: Array
    guard: Array | None


@torch.no_grad()
def rate_rules(
    core: SymbolicCore, context: Tensor, demos: Demonstrations, query: Grids, count: int = 2
) -> tuple[RatedRule, ...]:
    """The templates with the largest weights, best first.

    Args:
        core: the core that applies them.
        context: (...) weights of the templates, followed by the chances of guards.
        demos: the demonstrations of the task.
        query: one grid.
        count: the largest number of templates.
    """
    weights, guards = (part[0] for part in core.templates.split(context[None]))
    best = weights.topk(min(count, len(weights)))
    return tuple(
        _describe(core, core.templates.rule(index, guards), weight, demos, query)
        for index, weight in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )


def _describe(
    core: SymbolicCore, rule: Rule, weight: float, demos: Demonstrations, query: Grids
) -> RatedRule:
    meaning = core.predicates, core.templates.semantics
    made = apply_rule(rule, demos.inputs, *meaning).arrays()
    fits = tuple(map(measure_agreement, made, demos.outputs.arrays()))
    guard = None
    if isinstance(rule, Where) and rule.resizes is None:
        truth = Evaluator(query, *meaning).truth(rule.guard)[0]
        height, width = int(query.heights[0]), int(query.widths[0])
        guard = to_host(truth.view(query.shape)[:height, :width]).numpy()
    return RatedRule(rule, weight, fits, apply_rule(rule, query, *meaning).arrays()[0], guard)
