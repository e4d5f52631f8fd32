"""One rule that recolours every pair of colours that the demonstrations show, each pair by its own guard.

A guard is one condition, or two that hold together. Guards are not enumerated as rules: how many cells each one gets
wrong is a product of the truths of the conditions.

Shapes: P demonstrations, R tasks, N cells of a canvas, C = 10 colours, M conditions, L = C * C pairs of colours, source
before target. Place 0 of the M + 1 places of a guard means no condition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from etrm.symbolic.formula import COLOURS, TRUE, Also, And, Formula, Map, Rule, Where
from etrm.symbolic.grids import Grids
from etrm.symbolic.library import recolour

PAIRS = COLOURS * COLOURS
"""Number L of pairs of colours, a colour with itself included, which no demonstration shows as a change."""


@dataclass(frozen=True, eq=False)
class ColourChanges:
    """The cells of the demonstrations, and the pairs of colours that they show.

    Attributes:
        before: (P, N) int64 colours of the inputs, -1 where there is no cell.
        after: (P, N) int64 colours of the outputs there.
        shown: (Q, 2) int64, task and pair of colours, each once and in order, of tasks for which the rule is possible.
        possible: (R,) bool, whether all demonstrations of a task keep their size.
        cells: (R,) cells of all outputs.
    """

    before: Tensor
    after: Tensor
    shown: Tensor
    possible: Tensor
    cells: Tensor

    @classmethod
    def of(cls, inputs: Grids, outputs: Grids, owner: Tensor, tasks: int) -> ColourChanges:
        """The changes from P inputs to P outputs of R tasks; ``owner`` (P,) is the task of each."""
        resized = (inputs.heights != outputs.heights) | (inputs.widths != outputs.widths)
        height, width = inputs.shape
        canvas = inputs.hard.new_full(
            (outputs.size, max(height, outputs.shape[0]), max(width, outputs.shape[1])), -1
        )
        canvas[:, : outputs.shape[0], : outputs.shape[1]] = outputs.hard
        after = canvas[:, :height, :width].flatten(1)
        before = torch.where(inputs.mask & ~resized[:, None, None], inputs.hard, -1).flatten(1)
        zeros = inputs.colours.new_zeros(tasks)
        possible = zeros.index_add(0, owner, resized.to(zeros.dtype)) == 0
        changed = (before >= 0) & (before != after) & possible[owner, None]
        both = torch.stack((owner[:, None].expand_as(before), before * COLOURS + after), dim=-1)[changed]
        return cls(
            before,
            after,
            torch.unique(both, dim=0),
            possible,
            zeros.index_add(0, owner, outputs.mask.sum((1, 2)).to(zeros.dtype)),
        )


def fit_guards(
    truths: Tensor, changes: ColourChanges, owner: Tensor, prior: Tensor, scale: Tensor, smoothing: float
) -> tuple[Tensor, list[Tensor]]:
    """How likely each guard is for each pair of colours that the demonstrations show.

    A cell that a guard gets wrong is as unlikely as the smoothing says. Of truths between 0 and 1 it counts the
    expected number of wrong cells, which bounds the likelihood from below (Jensen's inequality). All guards of one
    condition are as likely beforehand as all guards of two.

    Args:
        truths: (P, M, N) truths of the conditions in the inputs.
        changes: the demonstrations.
        owner: (P,) int64, the task of each.
        prior: (M,) learned logits of the conditions.
        scale: factor of the log likelihoods.
        smoothing: chance of an arbitrary colour.

    Returns:
        The logit (R,) of the whole rule, which is the logarithm of the evidence for it: guards that are chosen among
        many count less. And for every pair of ``changes.shown`` the logits (M, M + 1) of the first and the second
        condition; -inf where a guard would be another one with its conditions exchanged.
    """
    right, wrong = math.log(1 - smoothing + smoothing / COLOURS), math.log(smoothing / COLOURS)
    count = truths.shape[1]
    beforehand = _log_prior(count, truths) + prior[:, None]
    beforehand = beforehand + torch.cat((prior.new_zeros(1), prior))
    found = []
    evidence = scale * changes.cells * (wrong + (right - wrong) * changes.possible)
    for task, pair in changes.shown.tolist():
        own = owner == task
        of_source = changes.before[own] == pair // COLOURS
        wanted = (changes.after[own] == pair % COLOURS)[of_source]
        holds = truths[own].transpose(0, 1)[:, of_source]  # (M, cells)
        sign = 1.0 - 2.0 * wanted.to(holds.dtype)
        with_none = holds @ sign
        errors = wanted.sum() + torch.cat((with_none[:, None], (holds * sign) @ holds.T), dim=1)
        logits = beforehand + scale * (wrong - right) * errors
        found.append(logits)
        evidence = evidence.index_add(
            0, owner.new_tensor([task]), logits.flatten().logsumexp(0, keepdim=True)
        )
    return evidence, found


def gather_guards(
    changes: ColourChanges, chosen: Sequence[Tensor], tasks: int, like: Tensor, conditions: int
) -> Tensor:
    """The chances (R, 2, L, M + 1) of conditions from the joint chances (M, M + 1) of each pair that is shown."""
    chances = like.new_zeros(tasks, PAIRS, 2, conditions + 1)
    if chosen:
        first = [torch.cat((one.new_zeros(1), one.sum(1))) for one in chosen]
        both = torch.stack(
            [torch.stack((one, joint.sum(0))) for one, joint in zip(first, chosen, strict=True)]
        )
        chances = chances.index_put((changes.shown[:, 0], changes.shown[:, 1]), both.to(chances.dtype))
    return chances.transpose(1, 2)


def paint_pairs(chances: Tensor, truths: Tensor, queries: Grids) -> Tensor:
    """What the rule makes of some queries; of two targets for one cell the later colour is painted.

    Args:
        chances: (R, 2, L, M + 1) chances of the conditions of each guard.
        truths: (R, M, N) truths of the conditions in the queries.
        queries: R grids.

    Returns:
        (R, H, W, C) distributions over colours.
    """
    holds = torch.cat((torch.ones_like(truths[:, :1]), truths), dim=1)
    each = torch.einsum("rklm,rmn->rkln", chances, holds)
    guards = (each[:, 0] * each[:, 1]).unflatten(1, (COLOURS, COLOURS))  # (R, source, target, N)
    before = queries.colours.flatten(1, 2)
    rest, painted = torch.ones_like(guards[:, :, 0]), []
    for target in reversed(range(COLOURS)):
        painted.append(torch.einsum("rnc,rcn->rn", before, guards[:, :, target] * rest))
        rest = rest * (1 - guards[:, :, target])
    stays = before * rest.transpose(1, 2)
    return (stays + torch.stack(painted[::-1], dim=-1)).unflatten(1, queries.shape)


def pairwise_rule(chances: Tensor, conditions: Sequence[Formula]) -> Rule:
    """The rule of the likeliest guards (2, L, M + 1); the identity if no pair of colours has one."""
    steps = []
    for pair in chances[0].any(1).nonzero().flatten().tolist():
        first, second = (
            conditions[int(place) - 1] if place else TRUE for place in chances[:, pair].argmax(1)
        )
        guard = first if second == TRUE else And(first, second)
        steps.append(recolour(guard, pair // COLOURS, pair % COLOURS))
    if not steps:
        return Where(TRUE, Map("identity"))
    start: Where | Also = steps[0]
    return reduce(Also, steps[1:], start)


def _log_prior(conditions: int, like: Tensor) -> Tensor:
    """(M, M + 1) logarithms of the chances of guards beforehand: each pair of conditions once, none with itself."""
    pairs = conditions * (conditions - 1) // 2
    single, joint = math.log(conditions), math.log(max(1, pairs))
    later = like.new_ones(conditions, conditions).triu(1) > 0
    found = like.new_full((conditions, conditions + 1), -math.inf)
    found[:, 0] = -single
    found[:, 1:][later] = -joint
    return found - (math.log(2) if pairs else 0)
