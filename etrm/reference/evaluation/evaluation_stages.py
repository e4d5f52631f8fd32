"""The reference of evaluation: the queries, votes, scores and submission of a recorded evaluation.

Each stage is computed from the real results of the stage before it, so the first departure is the cause of the others:
the queries from the tasks, the votes from the recorded answers, the scores, their intervals and the submission from the
reported votes.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from etrm.config import SIDE, DataConfig
from etrm.data.sources import TaskSet
from etrm.data.task import Grid, Task
from etrm.reference.data.canvas import PAD, UNSCORED, Integers, digest_grid, read_answer, read_change
from etrm.reference.data.loaded_rows import LoadedRow, find_differences
from etrm.reference.data.loader import Drawing, ReferenceRow, list_asked, list_changes, make_row
from etrm.reference.departure import Departure, PipelineStage

ROUNDING = 1e-9  # of a mean of float64 numbers, in any order
TAIL = 0.025  # probability beyond each end of an interval
ATTEMPTS = 2  # for each test pair, as in the Kaggle competitions
NO_ATTEMPT = [[0, 0], [0, 0]]  # as in Kaggle's sample submission
Submission = Mapping[str, Sequence[Mapping[str, Sequence[Sequence[int]]]]]
"""For each task id, the attempts at each test pair by name, as rows of colours."""
Query = tuple[str, int]
"""A task id and the index of a test pair."""


@dataclass(frozen=True)
class EvaluationRequest:
    """The request of an evaluation.

    Attributes:
        tasks: the tasks to evaluate.
        data: the data section of the training.
        augmentations: the number of votes for each query.
        seed: the seed of the run, which the augmentations depend on.
        trained: the tasks of the puzzle table; None of a model that reads demonstrations.
        ks: the numbers of candidates that may be tried.
    """

    tasks: TaskSet
    data: DataConfig
    augmentations: int
    seed: int
    trained: TaskSet | None = None
    ks: tuple[int, ...] = (1, 2)


@dataclass(frozen=True, eq=False)
class RecordedAnswer:
    """A row that an evaluator had answered, and the answer that it got.

    Attributes:
        task_id: the id of the task.
        query: the index of the test pair.
        name: the name of the task under the augmentation of the row.
        row: the row.
        tokens: (S,) the tokens of the answer; None if there is none.
        q_halt: the halting logit.
    """

    task_id: str
    query: int
    name: str
    row: LoadedRow
    tokens: Integers | None
    q_halt: float = 0.0


@dataclass(frozen=True, eq=False)
class CountedAnswer:
    """A grid with votes: their number, and the mean of their halting probabilities."""

    grid: Grid
    votes: int
    halting: float


@dataclass(frozen=True)
class CountedScores:
    """What an evaluator reports, as plain values.

    Attributes:
        values: the scores and counts by name: ``pass@k.score``, ``pass@k.solved``, ``pass@k.asked``, ``pass@k.low``
            and ``pass@k.high`` for each k, ``token_accuracy``, ``exact_accuracy``, ``samples``, ``missing``, ``empty``
            and ``unanswered``.
        ranks: the rank of the true output of each query, from 1; None if no candidate is right.
        candidates: the candidates of each query, the best first.
    """

    values: Mapping[str, float]
    ranks: Mapping[Query, int | None]
    candidates: Mapping[Query, Sequence[CountedAnswer]]


@dataclass(frozen=True)
class RecordedEvaluation:
    """One evaluation.

    Attributes:
        label: the answers that were given, for readers.
        request: the request of the evaluation.
        answers: the rows in the order in which they were answered.
        reported: the report; None if the evaluator refused the answers.
        refused: the reason why; empty if it did not.
        submitted: the submission that was written; None without one.
    """

    label: str
    request: EvaluationRequest
    answers: Sequence[RecordedAnswer] = field(default_factory=list)
    reported: CountedScores | None = None
    refused: str = ""
    submitted: Submission | None = None


def compare_evaluation(recorded: RecordedEvaluation) -> list[Departure]:
    """Compare an evaluation with the reference: its queries, then its votes, then its scores."""
    found = compare_queries(recorded.request, recorded.answers)
    if recorded.reported is None:
        where = f"{recorded.label}: {recorded.refused}"
        return [*found, Departure(PipelineStage.SCORE, "report", 1.0, 0.0, where)]
    return [
        *found,
        *compare_votes(recorded.request, recorded.answers, recorded.reported),
        *compare_scores(recorded.request, recorded.answers, recorded.reported),
        *compare_submission(recorded.request, recorded.submitted, recorded.reported),
    ]


# -- queries --------------------------------------------------------------------------------------


def list_evaluated(request: EvaluationRequest) -> list[ReferenceRow]:
    """Return the rows of an evaluation: every test pair of every task under its first augmentations, unshifted."""
    per_task = request.data.augmentations
    first = {}
    if request.trained is not None and per_task != "fresh":
        first = {task.id: index * per_task for index, task in enumerate(request.trained)}
    rows: list[ReferenceRow] = []
    for index, task in enumerate(request.tasks):
        for asked in list_asked(task, index, "test"):
            shifts = ((0, 0),) * (1 + min(len(asked.demos), request.data.max_demos))
            for number, change in enumerate(list_changes(task.id, request.augmentations, request.seed)):
                puzzle_id = first[task.id] + number if first else 0
                drawing = Drawing(asked, change, shifts, puzzle_id, len(rows))
                rows.append(make_row(drawing, request.data))
    return rows


def compare_queries(request: EvaluationRequest, answers: Sequence[RecordedAnswer]) -> list[Departure]:
    """Compare the rows that were answered with those of the tasks; their order is free."""
    expected = {_key(row): row for row in list_evaluated(request)}
    asked = Counter((answer.task_id, answer.query, answer.name) for answer in answers)
    every = sorted(expected.keys() | asked.keys())
    wrong: dict[str, list[str]] = defaultdict(list)
    for key in every:
        if asked[key] != (key in expected):
            wrong["queries"].append(_describe(key))
    for answer in answers:
        key = answer.task_id, answer.query, answer.name
        row = expected.get(key)
        for tensor in find_differences(row, answer.row) if row else ():
            wrong[tensor].append(_describe(key))
    return [
        Departure(PipelineStage.QUERIES, tensor, len(set(places)) / len(every), 0.0, min(places))
        for tensor, places in sorted(wrong.items())
    ]


def _describe(key: tuple[str, int, str]) -> str:
    task_id, query, name = key
    return f"task {task_id}, query {query}, augmentation {name.partition('|||')[2]}"


def _key(row: ReferenceRow) -> tuple[str, int, str]:
    asked = row.drawing.asked
    return asked.task.id, asked.index, row.drawing.name


# -- votes ----------------------------------------------------------------------------------------


def compare_votes(
    request: EvaluationRequest, answers: Sequence[RecordedAnswer], reported: CountedScores
) -> list[Departure]:
    """Compare the candidates that were reported with those of the recorded answers."""
    expected = count_votes(request.tasks, answers)
    wrong = [
        f"task {task_id}, query {query}"
        for (task_id, query), wanted in expected.items()
        if not agree(wanted, reported.candidates.get((task_id, query), ()))
    ]
    wrong += [
        f"task {task_id}, query {query}" for task_id, query in reported.candidates.keys() - expected.keys()
    ]
    if not wrong:
        return []
    return [Departure(PipelineStage.VOTES, "candidates", len(wrong) / len(expected), 0.0, wrong[0])]


def count_votes(tasks: TaskSet, answers: Sequence[RecordedAnswer]) -> dict[Query, list[CountedAnswer]]:
    """Return the candidates of each test pair, the best first.

    An answer is a vote for every test pair of its task whose input is that of its row. An answer without a grid is a
    vote for the empty grid. More votes win; then the larger mean of the halting probabilities; then the smaller
    digest of the grid.
    """
    votes: dict[tuple[str, str], list[tuple[Grid, float]]] = defaultdict(list)
    for answer in answers:
        if answer.tokens is not None:
            asked = _undo(answer, answer.row.tokens)
            votes[answer.task_id, digest_grid(asked)].append((_undo(answer, answer.tokens), answer.q_halt))
    return {
        (task.id, query): _rank(votes[task.id, digest_grid(pair.input)])
        for task in tasks
        for query, pair in enumerate(task.tests)
    }


def _rank(votes: Sequence[tuple[Grid, float]]) -> list[CountedAnswer]:
    ballots: dict[str, list[tuple[Grid, float]]] = defaultdict(list)
    for grid, q_halt in votes:
        ballots[digest_grid(grid)].append((grid, q_halt))
    counted = {
        digest: CountedAnswer(
            ballot[0][0],
            len(ballot),
            math.fsum(_to_probability(q_halt) for _, q_halt in ballot) / len(ballot),
        )
        for digest, ballot in ballots.items()
    }
    order = sorted(counted, key=lambda digest: (-counted[digest].votes, -counted[digest].halting, digest))
    return [counted[digest] for digest in order]


def _to_probability(logit: float) -> float:
    """The probability of halting; a logit that is not a number counts as the lowest."""
    if math.isnan(logit):
        return 0.0
    small = math.exp(-abs(logit))
    return (1 if logit >= 0 else small) / (1 + small)


def _undo(answer: RecordedAnswer, tokens: Integers) -> Grid:
    """Return the grid of some tokens of a row without the augmentation that its name states."""
    canvas = np.full((SIDE, SIDE), PAD, dtype=np.int64)
    # An evaluator may ask for rows of another length, which is a departure of its queries.
    for place, token in zip(answer.row.positions.tolist(), tokens.tolist(), strict=False):
        canvas[place // SIDE, place % SIDE] = token
    return read_change(answer.name).undo(read_answer(canvas))


def agree(first: Sequence[CountedAnswer], second: Sequence[CountedAnswer]) -> bool:
    """Return whether two lists of candidates are the same."""
    return len(first) == len(second) and all(
        np.array_equal(a.grid, b.grid) and a.votes == b.votes and abs(a.halting - b.halting) <= ROUNDING
        for a, b in zip(first, second, strict=True)
    )


# -- scores ---------------------------------------------------------------------------------------


def compare_scores(
    request: EvaluationRequest, answers: Sequence[RecordedAnswer], reported: CountedScores
) -> list[Departure]:
    """Compare the scores that were reported with those of the reported candidates and the recorded answers."""
    expected = compute_scores(request, answers, reported.candidates)
    found = []
    for name, wanted in expected.values.items():
        real = reported.values.get(name, math.nan)
        size = abs(real - wanted) / max(abs(wanted), 1.0)
        if not size <= ROUNDING:  # also if it is not a number
            where = f"{real:g} is reported instead of {wanted:g}"
            found.append(Departure(PipelineStage.SCORE, name, size, ROUNDING, where))
    wrong = [query for query, rank in expected.ranks.items() if reported.ranks.get(query, -1) != rank]
    if wrong:
        where = f"task {wrong[0][0]}, query {wrong[0][1]}"
        found.append(Departure(PipelineStage.SCORE, "ranks", len(wrong) / len(expected.ranks), 0.0, where))
    return found


def compute_scores(
    request: EvaluationRequest,
    answers: Sequence[RecordedAnswer],
    candidates: Mapping[Query, Sequence[CountedAnswer]],
) -> CountedScores:
    """Compute the scores of candidates, and the accuracies of the answers.

    pass@k is the mean over the tasks of the share of their test pairs whose output is among the first k candidates; a
    task is solved if all of them are. A query whose output does not fit into its region counts as unsolved. Token
    accuracy is the mean over all rows of the share of scored tokens that are right, 0 without an answer.
    """
    held = {_query(row): row.in_region for row in list_evaluated(request)}
    ranks = {
        (task.id, query): _find_rank(task, query, candidates) if held[task.id, query] else None
        for task in request.tasks
        for query in range(len(task.tests))
    }
    values: dict[str, float] = {}
    for k in request.ks:
        solved = [
            [(rank := ranks[task.id, query]) is not None and rank <= k for query in range(len(task.tests))]
            for task in request.tasks
        ]
        values[f"pass@{k}.score"] = sum(sum(tests) / len(tests) for tests in solved) / len(solved)
        values[f"pass@{k}.solved"] = sum(all(tests) for tests in solved)
        values[f"pass@{k}.asked"] = len(solved)
        whole = sum(all(tests) for tests in solved)
        values[f"pass@{k}.low"], values[f"pass@{k}.high"] = bound_share(whole, len(solved))
    shares = [_share_right(answer) for answer in answers]
    exact = [
        share == 1 and held.get((answer.task_id, answer.query), False)
        for share, answer in zip(shares, answers, strict=True)
    ]
    rows = max(1, len(answers))
    values |= {
        "token_accuracy": sum(shares) / rows,
        "exact_accuracy": sum(exact) / rows,
        "samples": len(answers),
        "missing": sum(answer.tokens is None for answer in answers),
        "empty": sum(a.tokens is not None and _undo(a, a.tokens).size == 0 for a in answers),
        "unanswered": sum(
            any(not candidates.get((task.id, query)) for query in range(len(task.tests)))
            for task in request.tasks
        ),
    }
    return CountedScores(values, ranks, candidates)


def compare_submission(
    request: EvaluationRequest, submitted: Submission | None, reported: CountedScores
) -> list[Departure]:
    """Compare a submission with the reported candidates; a task is wrong if any of its attempts is."""
    if submitted is None:
        return []
    expected = build_attempts(request.tasks, reported.candidates)
    every = sorted(expected.keys() | submitted.keys())
    wrong = [task_id for task_id in every if submitted.get(task_id) != expected.get(task_id)]
    if not wrong:
        return []
    return [Departure(PipelineStage.SCORE, "submission", len(wrong) / len(every), 0.0, f"task {wrong[0]}")]


def build_attempts(tasks: TaskSet, candidates: Mapping[Query, Sequence[CountedAnswer]]) -> Submission:
    """Return the best candidates of each test pair that have cells, and fixed grids where too few have."""
    found = {}
    for task in tasks:
        ranked = [candidates.get((task.id, query), ()) for query in range(len(task.tests))]
        grids = [[one.grid.tolist() for one in each if one.grid.size] for each in ranked]
        found[task.id] = [
            {
                f"attempt_{number + 1}": each[number] if number < len(each) else NO_ATTEMPT
                for number in range(ATTEMPTS)
            }
            for each in grids
        ]
    return found


def list_placeholders(
    tasks: TaskSet, candidates: Mapping[Query, Sequence[CountedAnswer]], max_side: int
) -> dict[str, str]:
    """Return why a test pair of a task has no answer in a submission, for each task with such a pair.

    Args:
        tasks: all tasks of the data set.
        candidates: the candidates of each query that was evaluated.
        max_side: the longest side of an evaluated grid.
    """
    evaluated, reasons = {task_id for task_id, _ in candidates}, {}
    for task in tasks:
        ranked = [candidates.get((task.id, query), ()) for query in range(len(task.tests))]
        if task.id not in evaluated:
            large = any(max(grid.shape) > max_side for grid in task.grids)
            reasons[task.id] = "max_side" if large else "max_tasks"
        elif not all(any(one.grid.size for one in each) for each in ranked):
            reasons[task.id] = "no_grid"
    return reasons


def bound_share(solved: int, asked: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share (Clopper and Pearson, 1934).

    At the lower end so many or more are solved with probability .025, at the upper end so many or fewer.
    """

    def find(least: int, rises_to: float) -> float:
        """The share at which ``least`` or more are solved with a probability, which rises with the share."""
        low, high = 0.0, 1.0
        for _ in range(60):  # halves [0, 1] below the rounding of a float64 number
            middle = (low + high) / 2
            more = math.fsum(_probability(n, asked, middle) for n in range(least, asked + 1))
            low, high = (middle, high) if more < rises_to else (low, middle)
        return low

    return (find(solved, TAIL) if solved else 0.0), (find(solved + 1, 1 - TAIL) if solved < asked else 1.0)


def _probability(solved: int, asked: int, share: float) -> float:
    """The binomial probability; by logarithms, because the coefficient of a thousand tasks exceeds any float."""
    choices = math.lgamma(asked + 1) - math.lgamma(solved + 1) - math.lgamma(asked - solved + 1)
    return math.exp(choices + solved * math.log(share) + (asked - solved) * math.log1p(-share))


def _query(row: ReferenceRow) -> Query:
    return row.drawing.asked.task.id, row.drawing.asked.index


def _find_rank(task: Task, query: int, candidates: Mapping[Query, Sequence[CountedAnswer]]) -> int | None:
    true = task.tests[query].output
    assert true is not None
    places = [
        place
        for place, found in enumerate(candidates.get((task.id, query), ()), start=1)
        if np.array_equal(found.grid, true)
    ]
    return places[0] if places else None


def _share_right(answer: RecordedAnswer) -> float:
    """The share of the scored tokens of a row that are right."""
    right = scored = 0
    if answer.tokens is None:
        return 0.0
    for token, label in zip(answer.tokens.tolist(), answer.row.labels.tolist(), strict=False):
        scored += label != UNSCORED
        right += token == label and label != UNSCORED
    return right / scored if scored else 0.0
