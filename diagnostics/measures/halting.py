"""Halting: when the rows of a model halt, and how well the halting logit predicts right answers.

Everything is computed from arrays, of any model and loop. The mean step index of all running rows means nothing: rows
that take long are counted more often, and those that continue have not ended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from diagnostics.errors import InvalidValue
from diagnostics.records import Absent, Number

Phase = Literal["start", "learning", "late"]


@dataclass(frozen=True, eq=False)
class Halts:
    """Rows that ended in some period of training or evaluation, and halting logits with their targets.

    Attributes:
        steps: (N,) integers, the step at which each row ended, from 1.
        maximum: The step at which a row is ended in any case.
        logits: (M,) halting logits, of all steps or of the ending ones; above 0 a row is to end.
        correct: (M,) bool, whether the answer of that row at that step was right.
        held: (M,) bool, whether exploration made the row continue at that step although it was to end; None
            where nothing is explored.
        losses: (S,) loss of the halting logit in the order of training; None where it is not known.
    """

    steps: Tensor
    maximum: int
    logits: Tensor
    correct: Tensor
    held: Tensor | None = None
    losses: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse arrays that cannot belong together.

        Raises:
            ValueError: No row, steps outside 1..maximum, or arrays of different lengths.
        """
        if not self.steps.numel() or not 1 <= int(self.steps.min()) <= int(self.steps.max()) <= self.maximum:
            raise InvalidValue(
                "halting.steps-out-of-range",
                "steps must be at least one number, all within 1..{maximum}",
                maximum=self.maximum,
            )
        others = [array for array in (self.correct, self.held) if array is not None]
        if self.logits.dim() != 1 or any(array.shape != self.logits.shape for array in others):
            raise InvalidValue(
                "halting.lengths-differ", "logits, correct and held must be vectors of the same length"
            )


@dataclass(frozen=True)
class HaltingSummary:
    """Statistics of how rows ended.

    Attributes:
        distribution: Step -> share of the rows that ended there.
        mean_step: Mean step at the end.
        forced: Share of the rows that ended at the maximum.
        held: Share of the observations at which exploration made a row continue.
        correct: Share of the observations with a right answer, the base rate.
        skill: 1 - log loss of the logit / log loss of the base rate: 1 is perfect, 0 no better than the base rate.
        auroc: Chance that a right answer has a larger logit than a wrong one, ties counted half.
        auroc_error: Its standard error for an uninformative logit, sqrt((M + 1) / (12 right wrong)), from
            the rank test of Mann and Whitney (1947).
        loss_trend: Median of the last fifth of the losses over that of the first fifth, less 1.
        phase: "start" below a tenth of right answers, "late" above nine tenths, "learning" between.
    """

    distribution: Mapping[int, float]
    mean_step: float
    forced: float
    held: Number
    correct: Number
    skill: Number
    auroc: Number
    auroc_error: Number
    loss_trend: Number
    phase: Phase | Absent


def summarise_halts(halts: Halts) -> HaltingSummary:
    """The statistics of `halts`; what its arrays do not determine is absent, with the reason."""
    steps = halts.steps.double()
    ended, counts = halts.steps.unique(return_counts=True)
    correct = halts.correct.bool()
    seen, right = correct.numel(), int(correct.sum())
    one_sided = (
        Absent("the answers are all right or all wrong", "one-sided")
        if seen
        else Absent("no halting logit was given", "no-logit")
    )
    known = 0 < right < seen
    base = right / seen if seen else one_sided
    return HaltingSummary(
        distribution={
            int(step): int(count) / steps.numel() for step, count in zip(ended, counts, strict=True)
        },
        mean_step=float(steps.mean()),
        forced=float((halts.steps == halts.maximum).double().mean()),
        held=Absent("nothing is explored", "not-explored")
        if halts.held is None or not seen
        else float(halts.held.double().mean()),
        correct=base,
        skill=_skill(halts.logits.double(), correct.double()) if known else one_sided,
        auroc=_auroc(halts.logits, correct) if known else one_sided,
        auroc_error=math.sqrt((seen + 1) / (12 * right * (seen - right))) if known else one_sided,
        loss_trend=_trend(halts.losses),
        phase=base if isinstance(base, Absent) else _phase(base),
    )


def _skill(logits: Tensor, correct: Tensor) -> float:
    base = correct.mean()
    guessed = binary_cross_entropy_with_logits(torch.logit(base).expand_as(correct), correct)
    return 1.0 - float(binary_cross_entropy_with_logits(logits, correct) / guessed)


def _auroc(logits: Tensor, correct: Tensor) -> float:
    """From the mean ranks of tied values."""
    _, places, counts = logits.unique(return_inverse=True, return_counts=True)
    ranks = (counts.double().cumsum(0) - (counts.double() - 1) / 2)[places]
    right = int(correct.sum())
    above = float(ranks[correct].sum()) - right * (right + 1) / 2
    return above / (right * (correct.numel() - right))


def _trend(losses: Tensor | None) -> Number:
    count = 0 if losses is None else losses.numel() // 5
    if losses is None or not count:
        return Absent("fewer than five losses of the halting logit were given", "few-losses")
    first, last = median(losses[:count].tolist()), median(losses[-count:].tolist())
    return last / first - 1.0 if first else Absent("the first losses are zero", "zero-losses")


def _phase(correct: float) -> Phase:
    return "start" if correct < 0.1 else "late" if correct > 0.9 else "learning"
