"""The trained solver: demonstrations give weights of templates, and the weighed templates paint the query.

Shapes: P demonstrations, R tasks, T templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor, nn

from etrm.config import SymbolicConfig
from etrm.symbolic.formula import COLOURS, TRUE, Rule, Then
from etrm.symbolic.grids import Grids
from etrm.symbolic.library import Library, recolour
from etrm.symbolic.predicates import Predicates
from etrm.symbolic.selector import EncodedSelector, FitSelector, weigh
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
        weights: (R, T) of the templates.
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
        self.templates = Templates(rules, conditions, self.predicates, Semantics.of(config), config.smoothing)

    def forward(self, weights: Tensor, queries: Grids, region: tuple[int, int]) -> Tensor:
        """(R, rows, columns, 12) chances of tokens, see :meth:`Templates.paint`."""
        return self.templates.paint(weights, queries, region)


class SymbolicSolver(nn.Module):
    """Chooses templates by demonstrations and applies them to queries.

    Args:
        config: all of its settings.
    """

    def __init__(self, config: SymbolicConfig) -> None:
        super().__init__()
        self.config = config
        self.core = SymbolicCore(config)
        sizes = len(self.core.templates.rules), len(self.core.templates.conditions)
        self.encoder: FitSelector | EncodedSelector
        self.encoder = FitSelector(*sizes) if config.selector == "fit" else EncodedSelector(config, *sizes)

    def forward(
        self, demos: Demonstrations, queries: Grids, region: tuple[int, int], noise: Tensor | None = None
    ) -> Solution:
        """Answer one query of each task.

        Args:
            demos: the demonstrations of R tasks.
            queries: R grids.
            region: rows and columns of the canvas of the answers.
            noise: (R, T) for the selection ``straight_through``, see :func:`etrm.symbolic.selector.weigh`.
        """
        logits = self.logits(demos, queries)
        weights = weigh(logits, self.config, self.training, noise)
        return Solution(self.core(weights, queries, region), weights, logits)

    def logits(self, demos: Demonstrations, queries: Grids) -> Tensor:
        """(R, T) of the templates, from the demonstrations alone; with selector ``input`` from the queries alone."""
        if isinstance(self.encoder, FitSelector):
            each = self.core.templates.log_likelihoods(demos.inputs, demos.outputs)
            return self.encoder(_sum_by_task(each, demos.owner, queries.size))
        if self.config.selector == "input":
            return self.encoder(self.encoder.encoder(queries))
        each = self.encoder.encoder(demos.inputs, demos.outputs)
        counts = _sum_by_task(torch.ones_like(each[:, :1]), demos.owner, queries.size)
        return self.encoder(_sum_by_task(each, demos.owner, queries.size) / counts.clamp(min=1))

    def rule(self, index: int) -> Rule:
        """A template as a rule."""
        return self.core.templates.rule(index)


def _sum_by_task(values: Tensor, owner: Tensor, tasks: int) -> Tensor:
    """(R, ...) sums of the (P, ...) values of each task's demonstrations."""
    return values.new_zeros(tasks, *values.shape[1:]).index_add(0, owner, values)
