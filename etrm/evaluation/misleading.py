"""Scores that overstate a model, as earlier systems reported them. They are shown only next to the right score.

The right score counts a task as solved if all its test queries are, with the size predicted and without noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from etrm.data.sample import Sample
from etrm.data.sources import TaskSet
from etrm.data.task import Grid, Task
from etrm.data.tokens import FIRST_COLOUR, to_canvas
from etrm.evaluation.passk import EvaluationReport, evaluate
from etrm.evaluation.statistics import binomial_interval, paired_t_interval
from etrm.evaluation.voting import Answer, Predictor

LEVEL = 0.95
"""Level of every interval."""


class Misleading(StrEnum):
    """The right score, and scores that differ from it in what they count or reveal.

    The original solver of the neural-symbolic documents reported ``ALL_THREE`` and ``CELLS``.
    """

    TASKS = "tasks"
    PAIRS = "pairs"
    TRUE_SIZE = "true-size"
    NOISE = "noise"
    ALL_THREE = "all-three"
    CELLS = "cells"

    @property
    def words(self) -> str:
        """The score as a report names it."""
        return {
            Misleading.TASKS: "tasks: the score",
            Misleading.PAIRS: "demonstration pairs",
            Misleading.TRUE_SIZE: "tasks, true size given",
            Misleading.NOISE: "tasks, noisy context",
            Misleading.ALL_THREE: "pairs, true size, noise",
            Misleading.CELLS: "cells, true size given",
        }[self]


@dataclass(frozen=True)
class Share:
    """A share of right answers.

    Attributes:
        value: the share.
        low: the lower end of its 95 % interval.
        high: the upper end.
        of: the number of answers.
    """

    value: float
    low: float
    high: float
    of: int

    @classmethod
    def counted(cls, right: int, of: int) -> Share:
        """The share of right answers, with the exact binomial interval."""
        return cls(right / of, *binomial_interval(right, of, LEVEL), of)

    @classmethod
    def averaged(cls, values: Sequence[float]) -> Share:
        """The mean of shares, with the t interval; of one share the interval is 0 to 1."""
        found = paired_t_interval(values, LEVEL)
        return cls(fmean(values), max(0.0, found.low), min(1.0, found.high), len(values))


MisleadingScores = dict[Misleading, Share]


def score_misleading(
    tasks: TaskSet, predictor: Predictor, noisy: Predictor | None = None, **options: Any
) -> MisleadingScores:
    """Score a predictor in every way; the scores of demonstration pairs are absent where no pair can be posed.

    Args:
        tasks: the held-out tasks.
        predictor: the predictor.
        noisy: the same model with noise on its context; the predictor itself if None, as of a baseline.
        options: the options of :func:`etrm.evaluation.passk.evaluate`.

    Raises:
        DataError: see :func:`~etrm.evaluation.passk.evaluate`.
    """

    def ask(asked: TaskSet, answers: Predictor) -> EvaluationReport:
        return evaluate(asked, answers, **{**options, "ks": (1,)})

    noisy = noisy or predictor
    sized = ask(tasks, fit_true_sizes(predictor))
    scores = {
        Misleading.TASKS: _count(ask(tasks, predictor)),
        Misleading.TRUE_SIZE: _count(sized),
        Misleading.NOISE: _count(ask(tasks, noisy)),
        Misleading.CELLS: Share.averaged(_share_cells(tasks, sized)),
    }
    if _pose_pairs(tasks):
        pairs = make_pair_tasks(tasks)
        scores[Misleading.PAIRS] = _count(ask(pairs, predictor))
        scores[Misleading.ALL_THREE] = _count(ask(pairs, fit_true_sizes(noisy)))
    return scores


def make_pair_tasks(tasks: TaskSet) -> TaskSet:
    """Make a task of every demonstration pair: it is to be answered from the task's other demonstrations.

    Raises:
        DataError: no task has two different demonstrations.
    """
    return replace(tasks, tasks=_pose_pairs(tasks))


def _pose_pairs(tasks: TaskSet) -> tuple[Task, ...]:
    return tuple(
        Task(f"{task.id}-pair-{place}", task.demos, (pair,))
        for task in tasks
        for place, pair in enumerate(task.demos)
        if any(other != pair for other in task.demos)
    )


def fit_true_sizes(predictor: Predictor) -> Predictor:
    """Give a predictor the size of every true output: its answers are cropped, or padded with black."""

    def fitted(samples: Sequence[Sample]) -> list[Answer | None]:
        answers = zip(samples, predictor(samples), strict=True)
        return [answer and (_fit(sample, answer[0]), answer[1]) for sample, answer in answers]

    return fitted


def _fit(sample: Sample, tokens: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    if sample.target is None:
        return tokens
    true = to_canvas(sample.target, sample.side).ravel()[sample.positions]
    return np.where(true >= FIRST_COLOUR, np.maximum(tokens, FIRST_COLOUR), true)


def _count(report: EvaluationReport) -> Share:
    first = report.pass_at[1]
    return Share.counted(first.solved, first.asked)


def _share_cells(tasks: TaskSet, report: EvaluationReport) -> list[float]:
    """The share of right cells of the first answer to every test query."""
    return [
        _compare_cells(pair.output, found[0].grid) if found and pair.output is not None else 0.0
        for task in tasks
        for pair, found in zip(task.tests, report.candidates[task.id], strict=True)
    ]


def _compare_cells(true: Grid, found: Grid) -> float:
    """The share of the true cells that an answer has; what lies outside of its region is missing."""
    rows, columns = (min(sides) for sides in zip(true.shape, found.shape, strict=True))
    return float((true[:rows, :columns] == found[:rows, :columns]).sum() / true.size)
