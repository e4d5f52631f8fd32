"""Why the solver answers as it does: its best templates as rules, what they make of each grid, and where they hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from etrm.device import to_host
from etrm.symbolic.formula import Also, Formula, Rule, Where
from etrm.symbolic.grids import Grids
from etrm.symbolic.search import Array, measure_agreement
from etrm.symbolic.solver import Demonstrations, SymbolicCore
from etrm.symbolic.tensor_evaluator import Evaluator, apply_rule


@dataclass(frozen=True, eq=False)
class RatedRule:
    """A template that the solver may choose for a task.

    Attributes:
        rule: the template as a rule.
        weight: its weight, of 1 for all templates together.
        fits: the share of cells that it gets right in each demonstration; 0 where the size is wrong.
        answer: the grid that it makes of the query.
        guard: (rows, columns) truth of its guard in each cell of the query, the largest one if it has several; None
            if the rule changes the size or has several steps.
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
        rate_rule(core, core.templates.rule(index, guards), weight, demos, query)
        for index, weight in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )


@torch.no_grad()
def rate_rule(
    core: SymbolicCore, rule: Rule, weight: float, demos: Demonstrations, query: Grids
) -> RatedRule:
    """What a rule of some weight makes of the demonstrations and of a query, see :func:`rate_rules`."""
    meaning = core.predicates, core.templates.semantics
    made = apply_rule(rule, demos.inputs, *meaning).arrays()
    fits = tuple(map(measure_agreement, made, demos.outputs.arrays()))
    guard, guards = None, _list_guards(rule)
    if guards:
        evaluator = Evaluator(query, *meaning)
        truth = torch.stack([evaluator.truth(one)[0] for one in guards]).amax(0)
        height, width = int(query.heights[0]), int(query.widths[0])
        guard = to_host(truth.view(query.shape)[:height, :width]).numpy()
    return RatedRule(rule, weight, fits, apply_rule(rule, query, *meaning).arrays()[0], guard)


def _list_guards(rule: Rule) -> list[Formula]:
    """Return the guards that read the grid before the rule paints; none if it changes the size or has several steps."""
    if isinstance(rule, Also):
        return [*_list_guards(rule.first), rule.second.guard]
    return [rule.guard] if isinstance(rule, Where) and rule.resizes is None else []
