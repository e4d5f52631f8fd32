"""The reference of ``etrm analyse``: how right answers are after each ACT step, and by which step is read.

Shapes: T steps, B answers, S tokens of an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from etrm.reference.data.canvas import UNSCORED, Integers
from etrm.reference.evaluation.misleading_scores import find_quantile


@dataclass(frozen=True)
class AnsweredSteps:
    """Answers after each step.

    Attributes:
        inputs: the (S,) tokens of each query.
        labels: the (S,) labels of each query.
        in_region: the flag of each query whether its true output fits into its region.
        tokens: the (S,) tokens of the answers, by step and query.
        q_halt: the halting logits, by step and query.
        moved: the relative change of the state, by step and query.
    """

    inputs: Sequence[Integers]
    labels: Sequence[Integers]
    in_region: Sequence[bool]
    tokens: Sequence[Sequence[Integers]]
    q_halt: Sequence[Sequence[float]]
    moved: Sequence[Sequence[float]]

    def share(self, step: int, row: int) -> float:
        """The share of scored tokens of an answer that are right."""
        pairs = zip(self.tokens[step][row].tolist(), self.labels[row].tolist(), strict=True)
        right = [token == label for token, label in pairs if label != UNSCORED]
        return sum(right) / len(right)

    def right(self, step: int, row: int) -> bool:
        """Whether an answer is right."""
        return self.in_region[row] and self.share(step, row) == 1

    @property
    def rows(self) -> range:
        """The places of the queries."""
        return range(len(self.labels))


def score_steps(answered: AnsweredSteps) -> list[dict[str, float]]:
    """Return the scores of each step by name."""
    found = []
    for step, tokens in enumerate(answered.tokens):
        before = answered.tokens[step - 1] if step else answered.inputs
        halted = [any(logits[row] > 0 for logits in answered.q_halt[: step + 1]) for row in answered.rows]
        found.append(
            {
                "right": sum(answered.right(step, row) for row in answered.rows),
                "changed": fmean(fmean((tokens[row] != before[row]).tolist()) for row in answered.rows),
                "moved": fmean(answered.moved[step]),
                "halted": fmean(halted),
            }
        )
    return found


def score_readouts(answered: AnsweredSteps) -> dict[str, dict[str, float]]:
    """Return the scores of each way to choose the step that is read, by the name of the way and that of the score."""
    steps, rows = range(len(answered.tokens)), answered.rows
    last = steps[-1]
    fixed = [_choose_best(answered, [other for other in rows if other % 2 != row % 2]) for row in rows]
    halting = [next((step for step in steps if answered.q_halt[step][row] > 0), last) for row in rows]
    read = {"last": [[last] for _ in rows], "best-fixed": [[step] for step in fixed]}
    read |= {"halting": [[step] for step in halting], "any": [[*steps] for _ in rows]}
    return {code: _score(answered, chosen) for code, chosen in read.items()}


def _choose_best(answered: AnsweredSteps, rows: Sequence[int]) -> int:
    """The first of the steps after which most of some answers are right."""
    counts = [sum(answered.right(step, row) for row in rows) for step in range(len(answered.tokens))]
    return counts.index(max(counts))


def _score(answered: AnsweredSteps, chosen: Sequence[Sequence[int]]) -> dict[str, float]:
    """The scores of the best of some steps of each answer, and how they differ from those of the last step."""
    last = len(answered.tokens) - 1
    right = [any(answered.right(step, row) for step in chosen[row]) for row in answered.rows]
    shares = [max(answered.share(step, row) for step in chosen[row]) for row in answered.rows]
    before = [answered.right(last, row) for row in answered.rows]
    changes = [share - answered.share(last, row) for row, share in enumerate(shares)]
    half = find_quantile(len(changes) - 1) * stdev(changes) / math.sqrt(len(changes))
    return {
        "right": sum(right),
        "gained": sum(now and not then for now, then in zip(right, before, strict=True)),
        "lost": sum(then and not now for now, then in zip(right, before, strict=True)),
        "accuracy": fmean(shares),
        "change": fmean(changes),
        "low": fmean(changes) - half,
        "high": fmean(changes) + half,
    }
