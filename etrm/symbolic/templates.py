"""The rules that a trained solver weighs: the library's, and a recolouring for each condition, source and target.

Recolourings are factored, never enumerated: how well each one explains a demonstration, and what all of them paint
together, are products of the truths of the conditions with counts of colours.

Shapes: P demonstrations, R tasks, H rows and W columns of a canvas, N = H * W cells, C = 10 colours, M conditions,
S = 11 sources (each colour, then every colour but black), T templates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from etrm.symbolic.formula import BLACK, CELL, COLOURS, TRUE, And, Atom, Cell, Formula, Not, Rule, Then, Where
from etrm.symbolic.grids import Grids
from etrm.symbolic.library import recolour
from etrm.symbolic.pairwise import PAIRS, paint_pairs, pairwise_rule
from etrm.symbolic.predicates import Predicates
from etrm.symbolic.semantics import Semantics
from etrm.symbolic.tensor_evaluator import Evaluator, apply_rule

SOURCES = COLOURS + 1
"""Sets of colours that a recolouring paints: each colour, and every colour but black."""
PAD, EOS, FIRST_COLOUR = 0, 1, 2
"""Tokens besides the colours, see ``etrm.data.tokens``."""


class Templates:
    """Some rules and all recolourings by some conditions, in this order.

    Args:
        rules: whole rules.
        conditions: formulas with the free variable x.
        predicates: the meaning of their atoms.
        semantics: the meaning of connectives and quantifiers.
        smoothing: chance of an arbitrary colour in the likelihood of a demonstration.
        pairwise: whether the last template recolours each pair of colours by its own guard
            (:mod:`etrm.symbolic.pairwise`).
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        conditions: Sequence[Formula],
        predicates: Predicates,
        semantics: Semantics,
        smoothing: float,
        pairwise: bool = False,
    ) -> None:
        self.rules, self.conditions, self.pairwise = tuple(rules), tuple(conditions), pairwise
        self.predicates, self.semantics, self.smoothing = predicates, semantics, smoothing

    @property
    def count(self) -> int:
        """Number of templates T."""
        return self.enumerated + self.pairwise

    @property
    def enumerated(self) -> int:
        """Number of templates that are the same for all tasks."""
        return len(self.rules) + len(self.conditions) * SOURCES * COLOURS

    @property
    def guards(self) -> tuple[int, ...]:
        """Shape of the chances of guards of one task: (2, L, M + 1), or (0,)."""
        return (2, PAIRS, len(self.conditions) + 1) if self.pairwise else (0,)

    def split(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """The weights (R, T) and the chances of guards (R, 2, L, M + 1) or (R, 0) that a context (R, ...) joins."""
        return context[:, : self.count], context[:, self.count :].unflatten(1, self.guards)

    def rule(self, index: int, guards: Tensor | None = None) -> Rule:
        """A template as a rule; the last one of pairwise templates needs the guards (2, L, M + 1) of a task."""
        if index == self.enumerated:
            assert guards is not None
            return pairwise_rule(guards, self.conditions)
        if index < len(self.rules):
            return self.rules[index]
        rest, target = divmod(index - len(self.rules), COLOURS)
        condition, source = divmod(rest, SOURCES)
        guard = self.conditions[condition]
        if source < COLOURS:
            return recolour(guard, source, target)
        painted = Not(Atom("colour", (Cell(CELL), BLACK)))
        return Where(painted if guard == TRUE else And(painted, guard), target)

    def log_likelihoods(self, inputs: Grids, outputs: Grids, truths: Tensor | None = None) -> Tensor:
        """How likely each enumerated template makes the output of each demonstration.

        Every cell of the output has its painted distribution, or with the chance of the smoothing an arbitrary
        colour. An output of another size is as unlikely as one that is wrong in every cell.

        Args:
            inputs: P grids.
            outputs: P grids.
            truths: (P, M, N) truths of the conditions in the inputs, if they are known.

        Returns:
            (P, T) natural logarithms, without the pairwise template.
        """
        parts = [self._of_made(made, outputs).unsqueeze(1) for made in self._apply_rules(inputs)]
        if self.conditions:
            truths = self.truths(inputs) if truths is None else truths
            parts.append(self._of_recolourings(inputs, outputs, truths))
        return torch.cat(parts, dim=1)

    def paint(
        self, weights: Tensor, queries: Grids, region: tuple[int, int], guards: Tensor | None = None
    ) -> Tensor:
        """The mixture of what all templates make of the queries, as tokens.

        Args:
            weights: (R, T) weights that sum to 1.
            queries: R grids.
            region: rows and columns of the canvas; what a template paints outside of it is lost.
            guards: (R, 2, L, M + 1) chances of the conditions of the pairwise template.

        Returns:
            (R, rows, columns, 12) chances of PAD, EOS and every colour.
        """
        first = len(self.rules)
        mixture = weights.new_zeros((queries.size, *region, FIRST_COLOUR + COLOURS))
        for column, made in enumerate(self._apply_rules(queries)):
            mixture = mixture + weights[:, column, None, None, None] * as_tokens(made, region)
        if not self.conditions:
            return mixture
        truths = self.truths(queries)
        painted = self._recoloured(weights[:, first : self.enumerated], queries, truths)
        if self.pairwise:
            assert guards is not None
            painted = painted + weights[:, -1, None, None, None] * paint_pairs(guards, truths, queries)
        grids = Grids(painted, queries.heights, queries.widths)
        total = weights[:, first:].sum(1)[:, None, None, None]
        return mixture + as_tokens(grids, region, total)

    # -- whole rules ----------------------------------------------------------------------------

    def _log(self, chance: Tensor) -> Tensor:
        return ((1 - self.smoothing) * chance + self.smoothing / COLOURS).log()

    def _apply_rules(self, grids: Grids) -> Iterator[Grids]:
        """What each rule makes of the grids; rules that begin alike and follow each other share their first step."""
        first: Rule | None = None
        for rule in self.rules:
            if not isinstance(rule, Then):
                yield apply_rule(rule, grids, self.predicates, self.semantics)
                continue
            if rule.first is not first:
                first, half = rule.first, apply_rule(rule.first, grids, self.predicates, self.semantics)
            yield apply_rule(rule.second, half, self.predicates, self.semantics)

    def _of_made(self, made: Grids, outputs: Grids) -> Tensor:
        same_size = (made.heights == outputs.heights) & (made.widths == outputs.widths)
        painted = fit_canvas(made.colours, outputs.shape)
        right = (painted * outputs.colours).sum(-1) * same_size[:, None, None]
        return (self._log(right) * outputs.mask).sum((1, 2))

    # -- recolourings ---------------------------------------------------------------------------

    def truths(self, grids: Grids) -> Tensor:
        """(P, M, N) truths of the conditions."""
        evaluator = Evaluator(grids, self.predicates, self.semantics)
        return torch.stack([evaluator.truth(condition) for condition in self.conditions], dim=1)

    def _of_recolourings(self, inputs: Grids, outputs: Grids, truths: Tensor) -> Tensor:
        """(P, M * S * C) log likelihoods of (condition, source, target)."""
        same_size = (inputs.heights == outputs.heights) & (inputs.widths == outputs.widths)
        wanted = (fit_canvas(outputs.colours, inputs.shape) * inputs.mask[..., None]).flatten(1, 2)
        before = inputs.colours.flatten(1, 2)
        became = (before.unsqueeze(-1) * wanted.unsqueeze(-2)).flatten(-2)  # (P, N, C * C)
        hit, kept = (
            (self._log(truth) @ became).unflatten(-1, (COLOURS, COLOURS)) for truth in (truths, 1 - truths)
        )  # (P, M, C, C): as if every cell of this colour became, or stayed, that one by its guard
        cells = became.sum(1).unflatten(-1, (COLOURS, COLOURS)).unsqueeze(1)  # (P, 1, C, C)
        right, wrong = self._log(cells.new_ones(())), self._log(cells.new_zeros(()))
        stays = kept.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        others = cells.sum(-1, keepdim=True) - cells - cells.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        unpainted = cells.diagonal(dim1=-2, dim2=-1) * (right - wrong) + cells.sum(-1) * wrong  # (P, 1, C)
        itself = torch.eye(COLOURS, dtype=torch.bool, device=cells.device)
        painted = torch.where(itself, unpainted.unsqueeze(-1), hit + stays + others * wrong)  # (P, M, C, C)
        rest = unpainted.sum(-1, keepdim=True) - unpainted  # of the cells of all other colours
        single = painted + rest.unsqueeze(-1)
        coloured = painted[:, :, BLACK + 1 :].sum(2, keepdim=True) + unpainted[..., BLACK, None, None]
        fits = torch.cat((single, coloured), dim=2).flatten(1)
        lost = (outputs.mask.sum((1, 2)) * wrong).unsqueeze(1)
        return torch.where(same_size.unsqueeze(1), fits, lost)

    def _recoloured(self, weights: Tensor, queries: Grids, truths: Tensor) -> Tensor:
        """(R, H, W, C), the sum of what all recolourings paint by their weights."""
        by_source = weights.unflatten(1, (len(self.conditions), SOURCES, COLOURS))
        painted_too = torch.arange(COLOURS, device=weights.device) != BLACK
        of_colour = (
            by_source[:, :, :COLOURS] + by_source[:, :, COLOURS:] * painted_too[:, None]
        )  # (R, M, C, C)
        before = queries.colours.flatten(1, 2)
        chosen = torch.einsum("rmct,rnc->rnmt", of_colour, before)
        painted = torch.einsum("rmn,rnmt->rnt", truths, chosen)
        stays = weights.sum(1)[:, None, None] - painted.sum(-1, keepdim=True)
        return (painted + stays * before).unflatten(1, queries.shape)


def fit_canvas(colours: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, H, W, C) values cut off or filled with 0 to another canvas."""
    height, width = shape
    spare = (0, 0, 0, max(0, width - colours.shape[2]), 0, max(0, height - colours.shape[1]))
    return functional.pad(colours[:, :height, :width], spare)


def as_tokens(grids: Grids, region: tuple[int, int], total: Tensor | float = 1.0) -> Tensor:
    """Grids as chances of tokens: EOS right of a grid and below it, PAD further out.

    Args:
        grids: B grids.
        region: rows and columns of the canvas.
        total: the sum of the chances of a cell; the colours of the grids already have it.

    Returns:
        (B, rows, columns, 12).
    """
    device = grids.colours.device
    row, column = (torch.arange(side, device=device) for side in region)
    height, width = grids.heights[:, None, None], grids.widths[:, None, None]
    row = row[:, None]
    inside = (row < height) & (column < width)
    ends = ((row == height) & (column < width)) | ((column == width) & (row < height))
    edges = torch.stack((~inside & ~ends, ends), dim=-1) * total
    colours = fit_canvas(grids.colours, region) * inside[..., None]
    return torch.cat((edges.to(colours.dtype), colours), dim=-1)
