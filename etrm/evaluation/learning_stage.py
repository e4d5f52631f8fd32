"""The stage of learning that a run has reached, from its metrics alone.

Inference of unseen rules appears abruptly after a plateau (Raventos et al., 2306.15063; Reddy, 2312.03002): a curve
that is flat does not yet say that nothing more will be learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from etrm.evaluation.statistics import binomial_interval

PIECES = 20
"""Parts of a curve whose means are compared: each then has hundreds of rows in a run of a few thousand steps."""
LOOKBACK = 5
"""Pieces between two compared means: a quarter of the run so far."""
FALL = 0.1
"""Relative fall of the loss over a quarter of the run that is no plateau. On the plateau of the colour maps it is .02
to .07 (preset `rules`, 1,800 steps), in the transition that follows several times as much."""
SOLVED = 0.9
"""Share of exact training answers of a run that has learned its training distribution."""
GAP = 0.1
"""Smallest difference between trained and unseen rules that is called memory."""


class LearningStage(StrEnum):
    """The stage of a training curve."""

    TOO_SHORT = "too-short"
    START = "start"
    PLATEAU = "plateau"
    TRANSITION = "transition"
    CONVERGED = "converged"

    @property
    def words(self) -> str:
        """The stage as a report prints it."""
        return {
            LearningStage.TOO_SHORT: "too few steps to tell the stage",
            LearningStage.START: "the loss still falls from its start",
            LearningStage.PLATEAU: "plateau: the loss is flat, and most answers are wrong",
            LearningStage.TRANSITION: "transition: the loss falls after a plateau",
            LearningStage.CONVERGED: "converged: most training answers are right",
        }[self]


class Generalisation(StrEnum):
    """What solved tasks of trained and of unseen rules show together."""

    NEITHER = "neither"
    MEMORISING = "memorising"
    INFERRING = "inferring"
    UNDECIDED = "undecided"

    @property
    def words(self) -> str:
        """The finding as a report prints it."""
        return {
            Generalisation.NEITHER: "neither memory nor inference: trained tasks are not solved either",
            Generalisation.MEMORISING: "memorising: trained tasks are solved, and unseen ones less often",
            Generalisation.INFERRING: "inferring: unseen tasks are solved as often as trained ones",
            Generalisation.UNDECIDED: "too few answers to tell memory from inference",
        }[self]


@dataclass(frozen=True)
class SolvedCount:
    """Solved answers of evaluated ones."""

    solved: int
    evaluated: int

    @property
    def share(self) -> float:
        """The share of solved answers."""
        return self.solved / self.evaluated

    @property
    def interval(self) -> tuple[float, float]:
        """The exact 95 % interval of the share."""
        return binomial_interval(self.solved, self.evaluated)


def classify_stage(losses: Sequence[float], exact: Sequence[float]) -> LearningStage:
    """Classify a training curve.

    Args:
        losses: the cross entropy of each step so far, in nats per token.
        exact: the share of exact answers of each step.
    """
    if len(losses) < 2 * PIECES or len(exact) < PIECES:
        return LearningStage.TOO_SHORT
    means = _average_pieces(losses)
    if _average_pieces(exact)[-1] >= SOLVED:
        return LearningStage.CONVERGED
    falls = [1 - means[i] / means[i - LOOKBACK] for i in range(LOOKBACK, PIECES)]
    if falls[-1] < FALL:
        return LearningStage.PLATEAU
    return LearningStage.TRANSITION if min(falls[:-LOOKBACK]) < FALL else LearningStage.START


def compare_rules(trained: SolvedCount, unseen: SolvedCount, smallest: float = 0.5) -> Generalisation:
    """Compare answers for trained and for unseen rules.

    Args:
        trained: answers to tasks of trained rules.
        unseen: answers to tasks of rules that were never trained on.
        smallest: the share of trained rules that must be solved before either is called learned.

    Returns:
        MEMORISING if the exact 95 % intervals of the shares do not overlap, INFERRING if unseen rules are learned by
        their whole interval and the shares differ by less than :data:`GAP`, NEITHER if both intervals are below
        ``smallest``, else UNDECIDED.
    """
    (low, high), (unseen_low, unseen_high) = trained.interval, unseen.interval
    if high < smallest and unseen_high < smallest:
        return Generalisation.NEITHER
    if low - unseen_high > 0 and trained.share - unseen.share >= GAP:
        return Generalisation.MEMORISING
    if unseen_low >= smallest and trained.share - unseen.share < GAP:
        return Generalisation.INFERRING
    return Generalisation.UNDECIDED


def _average_pieces(values: Sequence[float]) -> list[float]:
    """The means of equal pieces; what is left over at the start is dropped, so that the last piece is the end."""
    size = len(values) // PIECES
    kept = values[len(values) - size * PIECES :]
    return [fmean(kept[first : first + size]) for first in range(0, len(kept), size)]
