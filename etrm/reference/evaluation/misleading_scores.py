"""The reference of ``etrm evaluate --misleading``: scores that overstate a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

import numpy as np

from etrm.config import SIDE
from etrm.data.task import Grid, Pair, Task
from etrm.reference.data.canvas import COLOUR, Integers, lay_out
from etrm.reference.data.loader import ReferenceRow
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.evaluation.evaluation_stages import (
    CountedAnswer,
    EvaluationRequest,
    Query,
    compute_scores,
    count_votes,
    list_evaluated,
)
from etrm.reference.evaluation.trivial_answers import record_answer

ROUNDING = 1e-6  # of a quantile of Student's t, which both sides find by bisection
TAIL = 0.975  # probability below the upper end of an interval

AnswerRow = Callable[[ReferenceRow], Integers]
"""From a row to the (S,) tokens of its answer."""
Candidates = Mapping[Query, Sequence[CountedAnswer]]


@dataclass(frozen=True)
class ExpectedShare:
    """A share of right answers with its 95 % interval, and the number of answers."""

    value: float
    low: float
    high: float
    of: float


def compare_misleading(
    request: EvaluationRequest,
    answer: AnswerRow,
    noisy: AnswerRow,
    reported: Mapping[str, ExpectedShare],
) -> list[Departure]:
    """Compare reported scores with those of known answers.

    Args:
        request: the request of the evaluation; some task has two different demonstrations.
        answer: the answer of a model.
        noisy: its answer with noise on its context.
        reported: the scores by the names of :func:`compute_misleading`.
    """
    found = []
    for name, wanted in compute_misleading(request, answer, noisy).items():
        real = reported.get(name)
        where = f"misleading score, {name}"
        if real is None:
            found.append(Departure(PipelineStage.SCORE, "share", math.inf, ROUNDING, f"{where} is missing"))
            continue
        for part in ("of", "value", "low", "high"):
            size = abs(getattr(real, part) - getattr(wanted, part))
            if not size <= ROUNDING:
                found.append(Departure(PipelineStage.SCORE, part, size, ROUNDING, where))
                break
    return found


def compute_misleading(
    request: EvaluationRequest, answer: AnswerRow, noisy: AnswerRow
) -> dict[str, ExpectedShare]:
    """Compute each score of known answers: of tasks, pairs, the true size, noise, all three, and cells."""
    pairs = replace(request, tasks=replace(request.tasks, tasks=tuple(pose_pairs(request.tasks))))
    sized = _rank(request, give_size(answer))
    return {
        "tasks": _count_solved(request, _rank(request, answer)),
        "pairs": _count_solved(pairs, _rank(pairs, answer)),
        "true-size": _count_solved(request, sized),
        "noise": _count_solved(request, _rank(request, noisy)),
        "all-three": _count_solved(pairs, _rank(pairs, give_size(noisy))),
        "cells": _average(
            [_share_cells(task, query, sized) for task in request.tasks for query in range(len(task.tests))]
        ),
    }


def pose_pairs(tasks: Iterable[Task]) -> list[Task]:
    """Return a task for each demonstration that another one differs from: the pair is its query."""
    return [
        Task(f"{task.id}-pair-{number}", task.demos, (pair,))
        for task in tasks
        for number, pair in enumerate(task.demos)
        if any(not _equal(pair, other) for other in task.demos)
    ]


def _equal(one: Pair, other: Pair) -> bool:
    grids = (one.input, other.input), (one.output, other.output)
    return all(a is b or (a is not None and b is not None and np.array_equal(a, b)) for a, b in grids)


def give_size(answer: AnswerRow) -> AnswerRow:
    """Return answers of the true size: what is outside is right, and a cell inside that has no colour is black."""

    def sized(row: ReferenceRow) -> Integers:
        true = lay_out(row.drawing.change.apply(_output(row.drawing.asked.pair)))
        wanted = np.array([true[place // SIDE, place % SIDE] for place in row.positions.tolist()])
        tokens = answer(row)
        return np.where(wanted < COLOUR, wanted, np.where(tokens < COLOUR, COLOUR, tokens))

    return sized


def _output(pair: Pair) -> Grid:
    assert pair.output is not None  # the evaluator refuses tasks with unknown outputs
    return pair.output


def _rank(request: EvaluationRequest, answer: AnswerRow) -> Candidates:
    return count_votes(request.tasks, [record_answer(row, answer(row)) for row in list_evaluated(request)])


def _count_solved(request: EvaluationRequest, candidates: Candidates) -> ExpectedShare:
    values = compute_scores(request, (), candidates).values
    solved, asked, low, high = (values[f"pass@1.{name}"] for name in ("solved", "asked", "low", "high"))
    return ExpectedShare(solved / asked, low, high, asked)


def _share_cells(task: Task, query: int, candidates: Candidates) -> float:
    """The share of the true cells of a query that the first answer to it has."""
    true, ranked = _output(task.tests[query]), candidates[task.id, query]
    right = 0
    for place, colour in np.ndenumerate(true):
        grid = ranked[0].grid
        right += place[0] < grid.shape[0] and place[1] < grid.shape[1] and grid[place] == colour
    return right / true.size


def _average(shares: Sequence[float]) -> ExpectedShare:
    """The mean of shares with the t interval, cut to 0 and 1."""
    mean = fmean(shares)
    if len(shares) == 1:
        return ExpectedShare(mean, 0.0, 1.0, 1)
    half = find_quantile(len(shares) - 1) * stdev(shares) / math.sqrt(len(shares))
    return ExpectedShare(mean, max(0.0, mean - half), min(1.0, mean + half), len(shares))


def find_quantile(freedom: int) -> float:
    """Return the value below which Student's t lies with probability .975."""
    low, high = 0.0, 1e3
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _probability_within(middle, freedom) < 2 * TAIL - 1 else (low, middle)
    return low


def _probability_within(t: float, freedom: int) -> float:
    """The probability that Student's t is between -t and t (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
