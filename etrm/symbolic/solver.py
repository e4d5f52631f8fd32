"""The trained solver: demonstrations give weights of templates, and the weighed templates paint the query.

Shapes: P demonstrations, R tasks, T templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TypeAlias

import torch
from torch import Tensor, nn

from etrm.config import SymbolicConfig
from etrm.config.symbolic import Selection
from etrm.symbolic.formula import COLOURS, TRUE, Rule, Then
from etrm.symbolic.grids import Grids
from etrm.symbolic.library import Library, recolour
from etrm.symbolic.pairwise import ColourChanges, fit_guards, gather_guards
from etrm.symbolic.predicates import Predicates
from etrm.symbolic.selector import EncodedSelector, FitSelector, select, weigh
from etrm.symbolic.semantics import Semantics
from etrm.symbolic.templates import Templates


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """The demonstrations of some tasks.

    Attributes:
        inputs: P grids.
        outputs: P grids.
        owner: (P,) int64, the task of each one.
    """

    inputs: Grids
    outputs: Grids
    owner: Tensor


@dataclass(frozen=True)
class Solution:
    """What the solver makes of some queries.

    Attributes:
        tokens: (R, rows, columns, 12) chances of PAD, EOS and every colour.
        weights: (R, T) of the templates, before one is selected.
        logits: (R, T) that the weights come from.
    """

    tokens: Tensor
    weights: Tensor
    logits: Tensor


class SymbolicCore(nn.Module):
    """The predicates, and the templates that they give a meaning to.

    Args:
        config: families, semantics, learned predicates.
    """

    def __init__(self, config: SymbolicConfig) -> None:
        super().__init__()
        library = Library.of(config)
        conditions = library.conditions
        factored = {recolour(TRUE, *pair) for pair in permutations(range(COLOURS), 2) if TRUE in conditions}
        rules = [
            rule
            for rule in library.rules
            if rule not in factored and (config.composites or not isinstance(rule, Then))
        ]
        self.predicates = Predicates(config)
        self.templates = Templates(
            rules, conditions, self.predicates, Semantics.of(config), config.smoothing, config.pairwise
        )

        self.selection: Selection = config.selection

    def forward(self, queries: Grids, region: tuple[int, int], context: Tensor) -> Tensor:
        """Apply the templates to the queries, in training as ``selection`` says and else the best one alone.

        Args:
            queries: R grids.
            region: rows and columns of the canvas of the answers.
            context: (R, 1, ...) weights of the templates, followed by the chances of guards
                (:meth:`Templates.split`).

        Returns:
            (R, rows, columns, 12) chances of tokens, see :meth:`Templates.paint`.
        """
        with torch.autocast(context.device.type, enabled=False):  # bfloat16 would round the chances
            weights, guards = self.templates.split(context.squeeze(1).to(queries.colours.dtype))
            weights = select(weights, self.selection if self.training else "hard")
            return self.templates.paint(weights, queries, region, guards)


class SymbolicSolver(nn.Module):
    """Chooses templates by demonstrations and applies them to queries.

    Args:
        config: all of its settings.
    """

    def __init__(self, config: SymbolicConfig) -> None:
        super().__init__()
        self.config = config
        self.core = SymbolicCore(config)
        self.encoder = make_selector(config, self.core.templates)

    def forward(
        self, demos: Demonstrations, queries: Grids, region: tuple[int, int], noise: Tensor | None = None
    ) -> Solution:
        """Answer one query of each task.

        Args:
            demos: the demonstrations of R tasks.
            queries: R grids.
            region: rows and columns of the canvas of the answers.
            noise: (R, T) Gumbel noise of a sample, for the selection ``straight_through``.
        """
        rating = self.rate(demos, queries)
        weights = weigh(rating.logits, self.config.temperature, noise)
        context = rating.join(weights).unsqueeze(1)
        return Solution(self.core(queries, region, context=context), weights, rating.logits)

    def rate(self, demos: Demonstrations, queries: Grids) -> Rating:
        """Rate the templates by the demonstrations alone; with selector ``input`` by the queries alone."""
        if self.config.selector == "input":
            owner = torch.arange(queries.size, device=queries.colours.device)
            demos = Demonstrations(queries, queries, owner)
        selection: Selection = self.config.selection if self.training else "hard"
        return rate_templates(self.encoder, self.core.templates, demos, queries.size, selection)

    def rule(self, index: int) -> Rule:
        """A template as a rule."""
        return self.core.templates.rule(index)


@dataclass(frozen=True, eq=False)
class Rating:
    """How the demonstrations rate the templates.

    Attributes:
        logits: (R, T).
        guards: (R, 2, L, M + 1) chances of the conditions of the pairwise template, None without one.
    """

    logits: Tensor
    guards: Tensor | None = None

    def join(self, weights: Tensor) -> Tensor:
        """A context: the weights (R, T), followed by the chances of guards."""
        return weights if self.guards is None else torch.cat((weights, self.guards.flatten(1)), dim=1)


Selector: TypeAlias = FitSelector | EncodedSelector


def make_selector(config: SymbolicConfig, templates: Templates) -> Selector:
    """Make the selector of a config, which has all learned weights except those of the predicates."""
    sizes = len(templates.rules), len(templates.conditions)
    if config.selector == "fit":
        return FitSelector(*sizes, config.pairwise)
    return EncodedSelector(config, *sizes)


def rate_templates(
    selector: Selector, templates: Templates, given: Demonstrations, tasks: int, selection: Selection
) -> Rating:
    """Rate the templates for some tasks.

    Args:
        selector: the selector.
        templates: T templates; only a :class:`FitSelector` evaluates them.
        given: demonstrations of R tasks; the selector ``input`` reads no output, and its inputs may be queries.
        tasks: number R of tasks.
        selection: the selection of the guards of the pairwise template.
    """
    if isinstance(selector, FitSelector):
        with torch.autocast(given.owner.device.type, enabled=False):  # bfloat16 counts no more than 256 cells
            return _rate_by_fit(selector, templates, given, tasks, selection)
    each = selector.encoder(given.inputs, None if selector.inputs_alone else given.outputs)
    counts = _sum_by_task(torch.ones_like(each[:, :1]), given.owner, tasks)
    return Rating(selector(_sum_by_task(each, given.owner, tasks) / counts.clamp(min=1)))


def _rate_by_fit(
    selector: FitSelector, templates: Templates, given: Demonstrations, tasks: int, selection: Selection
) -> Rating:
    truths = templates.truths(given.inputs) if templates.conditions else None
    each = templates.log_likelihoods(given.inputs, given.outputs, truths)
    logits: Tensor = selector(_sum_by_task(each, given.owner, tasks))
    if selector.pairwise is None or truths is None:
        return Rating(logits)
    changes = ColourChanges.of(given.inputs, given.outputs, given.owner, tasks)
    whole, guards = fit_guards(
        truths, changes, given.owner, selector.conditions, selector.scale, templates.smoothing
    )
    chosen = [select(one.flatten().softmax(0)[None], selection).view_as(one) for one in guards]
    chances = gather_guards(changes, chosen, tasks, logits, truths.shape[1])
    return Rating(torch.cat((logits, (selector.pairwise + whole).unsqueeze(1)), dim=1), chances)


def _sum_by_task(values: Tensor, owner: Tensor, tasks: int) -> Tensor:
    """(R, ...) sums of the (P, ...) values of each task's demonstrations."""
    return values.new_zeros(tasks, *values.shape[1:]).index_add(0, owner, values)
