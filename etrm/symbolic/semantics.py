"""What connectives, quantifiers and assignments mean, in fuzzy logic: the one definition that every evaluator uses.

A t-norm is a conjunction of truths in [0, 1]. Negation is 1 - p, and the rest follows: p or q is not (not p and
not q), p implies q is (not p) or q. An existential quantifier is the negation of a universal one likewise. Sources:
van Krieken, Acar and van Harmelen, Analyzing Differentiable Fuzzy Logic Operators (2022); for p-means Badreddine and
others, Logic Tensor Networks (2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from etrm.config import SymbolicConfig
from etrm.config.symbolic import QuantifierKind, TNorm


@dataclass(frozen=True)
class Semantics:
    """A t-norm and a kind of quantifier.

    Attributes:
        tnorm: product, minimum (goedel) or bounded sum (lukasiewicz). The last has gradient zero wherever it saturates,
            so it is for reading formulas rather than for training.
        quantifier: product or minimum over the cells, or one minus the p-mean of their falsity (mean).
        exponent: p of the p-mean. It keeps a gradient where a product over many cells vanishes, but an existential
            formula that one cell of n makes true has the truth n**(-1/p) only.
    """

    tnorm: TNorm = "product"
    quantifier: QuantifierKind = "product"
    exponent: float = 4.0

    @classmethod
    def of(cls, config: SymbolicConfig) -> Semantics:
        """The semantics that a config names."""
        return cls(config.tnorm, config.quantifier, config.exponent)

    def negation(self, truth: Tensor) -> Tensor:
        """1 - p."""
        return 1 - truth

    def conjunction(self, left: Tensor, right: Tensor) -> Tensor:
        """The t-norm of two truths that broadcast."""
        if self.tnorm == "product":
            return left * right
        if self.tnorm == "goedel":
            return torch.minimum(left, right)
        return (left + right - 1).clamp(min=0)

    def disjunction(self, left: Tensor, right: Tensor) -> Tensor:
        """The dual of the conjunction."""
        return 1 - self.conjunction(1 - left, 1 - right)

    def implication(self, left: Tensor, right: Tensor) -> Tensor:
        """The disjunction of the negated left truth and the right one."""
        return self.disjunction(1 - left, right)

    def forall(self, truths: Tensor, mask: Tensor) -> Tensor:
        """A truth over all cells of the last axis that exist; 1 where none does.

        Args:
            truths: (..., N) truths.
            mask: bool, broadcastable to the truths: cells of the true grid.
        """
        if self.quantifier == "product":
            return torch.where(mask, truths, 1.0).prod(-1)
        if self.quantifier == "minimum":
            return torch.where(mask, truths, 1.0).amin(-1)
        return 1 - _power_mean(torch.where(mask, 1 - truths, 0.0), mask.sum(-1), self.exponent)

    def exists(self, truths: Tensor, mask: Tensor) -> Tensor:
        """The dual of :meth:`forall`; 0 where no cell exists."""
        return 1 - self.forall(1 - truths, mask)


def paint(guard: Tensor, value: Tensor, previous: Tensor) -> Tensor:
    """The distribution of a painted cell: ``value`` where the guard holds, ``previous`` where it does not.

    Args:
        guard: (...) truths.
        value: (..., C) distribution over colours.
        previous: (..., C) likewise.
    """
    weight = guard.unsqueeze(-1)
    return weight * value + (1 - weight) * previous


def _power_mean(values: Tensor, count: Tensor, exponent: float) -> Tensor:
    """(sum of v**p / n)**(1/p) over the last axis, scaled by its largest value so that no power underflows.

    The scale is constant for the gradient: the mean does not depend on it. The gradient at 0 is 0.
    """
    scale = values.detach().amax(-1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    mean = ((values / scale) ** exponent).sum(-1) / count.clamp(min=1)
    positive = mean > 0
    root = torch.where(positive, mean, 1.0) ** (1 / exponent)
    return torch.where(positive, scale.squeeze(-1) * root, 0.0)
