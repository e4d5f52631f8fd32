"""Pass@k over the evaluated tasks. A query without a prediction counts as unsolved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from etrm.batch import IGNORE
from etrm.config import DataConfig
from etrm.data.episodes import build_evaluation_samples
from etrm.data.sample import Sample
from etrm.data.sources import TaskSet
from etrm.data.task import Grid, Task, hash_grid
from etrm.errors import ArgumentError, DataError
from etrm.evaluation.statistics import binomial_interval
from etrm.evaluation.voting import Candidate, Prediction, Predictor, group_by_query, rank

KS = (1, 2, 5, 10, 100, 1000)
"""Candidates that may be tried, as in the published evaluator; ARC itself allows two."""

Candidates: TypeAlias = Mapping[str, tuple[tuple[Candidate, ...], ...]]
"""The ranked candidates of each test pair, by task id."""


@dataclass(frozen=True)
class PassK:
    """Pass@k of one evaluation.

    Attributes:
        k: the number of candidates that may be tried on each test input.
        score: the mean over the evaluated tasks of the share of solved test inputs.
        solved: the number of tasks whose test inputs are all solved.
        asked: the number of evaluated tasks.
        low: the lower end of the exact 95 % binomial interval of solved / asked.
        high: the upper end of this interval. The score can be above it, because it also counts partly solved tasks.
    """

    k: int
    score: float
    solved: int
    asked: int
    low: float
    high: float

    def __str__(self) -> str:
        interval = f"95 % interval {self.low:.1%} to {self.high:.1%}"
        return f"pass@{self.k} {self.score:.1%}, solved {self.solved}/{self.asked} ({interval})"


@dataclass(frozen=True)
class QueryResult:
    """The result of one test input.

    Attributes:
        task_id: the id of the task.
        query: the index of the test pair.
        in_region: whether the true output fits into the model's region; if not, the query counts as unsolved.
        votes: the number of predictions.
        candidates: the number of different answers among them.
        rank: the rank of the true output among the candidates, from 1; None if it is not among them.
    """

    task_id: str
    query: int
    in_region: bool
    votes: int
    candidates: int
    rank: int | None

    def solved(self, k: int) -> bool:
        """Return whether the true output is among the first k candidates."""
        return self.rank is not None and self.rank <= k


@dataclass(frozen=True)
class EvaluationReport:
    """The results of one evaluation.

    Attributes:
        pass_at: pass@k by k.
        token_accuracy: the mean over all samples of the share of scored tokens (colours and EOS) that are correct;
            a sample without a prediction counts 0.
        exact_accuracy: the share of samples whose scored tokens are all correct and whose output fits into the region.
        samples: the number of evaluated samples: test pairs times augmentations.
        missing: the number of samples without a prediction.
        empty: the number of predictions that contain no grid.
        unanswered: the number of evaluated tasks with a test pair that has no prediction at all.
        queries: the results of all test inputs of all evaluated tasks.
        candidates: the answers, see :data:`Candidates`.
    """

    pass_at: Mapping[int, PassK]
    token_accuracy: float
    exact_accuracy: float
    samples: int
    missing: int
    empty: int
    unanswered: tuple[str, ...]
    queries: tuple[QueryResult, ...]
    candidates: Candidates

    @property
    def out_of_region(self) -> tuple[str, ...]:
        """The queries whose true output does not fit into the region, as ``task id[query]``."""
        return tuple(f"{query.task_id}[{query.query}]" for query in self.queries if not query.in_region)


def evaluate(
    tasks: TaskSet,
    predictor: Predictor,
    *,
    augmentations: int,
    data: DataConfig | None = None,
    seed: int = 0,
    variant: str = "etrm",
    trained: TaskSet | None = None,
    ks: Sequence[int] = KS,
    batch_size: int = 64,
) -> EvaluationReport:
    """Predict every test query of the tasks under some augmentations, vote, and score the answers.

    No state outlives the call. The other arguments are those of
    :func:`etrm.data.episodes.build_evaluation_samples`, which makes the samples.

    Raises:
        DataError: a test output is unknown, or a sample cannot be made.
    """
    check_outputs(tasks)
    layout = DataConfig() if data is None else data
    samples = build_evaluation_samples(tasks, layout, augmentations, seed, variant=variant, trained=trained)
    return score(tuple(tasks), samples, predict(samples, predictor, batch_size), ks)


SUBMIT = "write a submission with --submission"
"""What can be done with answers to tasks with unknown outputs."""


def check_outputs(tasks: TaskSet, otherwise: str = SUBMIT) -> None:
    """Refuse tasks whose answers cannot be scored.

    Args:
        tasks: the tasks.
        otherwise: the next step for outputs that stay unknown, as the end of a sentence.

    Raises:
        DataError: a test output is unknown.
    """
    unknown = [task.id for task in tasks if any(pair.output is None for pair in task.tests)]
    if unknown:
        raise DataError(
            "evaluate.unknown-outputs",
            f"{tasks.source}: the test outputs of {len(unknown)} tasks are unknown, so answers cannot be scored",
            got=", ".join(unknown[:5]),
            next_step=f"put the solutions file next to the challenges file, or {otherwise}",
        )


def predict(samples: Sequence[Sample], predictor: Predictor, batch_size: int = 64) -> list[Prediction | None]:
    """Return the prediction of each sample, in their order. Samples of similar length are predicted in one batch."""
    if batch_size < 1:
        raise ArgumentError("evaluate.bad-batch-size", f"the batch size {batch_size} is below 1")
    found: list[Prediction | None] = [None] * len(samples)
    order = sorted(range(len(samples)), key=lambda index: (len(samples[index].tokens), index))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        answers = predictor([samples[index] for index in chosen])
        if len(answers) != len(chosen):
            raise ArgumentError(
                "evaluate.wrong-number-of-answers",
                f"the predictor returned {len(answers)} answers for {len(chosen)} samples",
            )
        for index, answer in zip(chosen, answers, strict=True):
            if answer is not None:
                tokens, q_halt = answer
                found[index] = Prediction(samples[index], np.asarray(tokens), float(q_halt))
    return found


def rank_candidates(tasks: Iterable[Task], predictions: Iterable[Prediction | None]) -> Candidates:
    """Return the candidates of every test pair of every task; none for a pair without predictions."""
    groups = group_by_query(prediction for prediction in predictions if prediction is not None)
    ranked = {key: rank(group) for key, group in groups.items()}
    return {
        task.id: tuple(ranked.get((task.id, hash_grid(pair.input)), ()) for pair in task.tests)
        for task in tasks
    }


def score(
    tasks: Sequence[Task],
    samples: Sequence[Sample],
    predictions: Sequence[Prediction | None],
    ks: Sequence[int] = KS,
) -> EvaluationReport:
    """Score predictions, one per sample, against the outputs of the evaluated tasks."""
    if not tasks:
        raise ArgumentError("evaluate.no-tasks", "no task is evaluated")
    if len({task.id for task in tasks}) < len(tasks):
        raise ArgumentError("evaluate.duplicate-task", "a task is evaluated twice")
    candidates = rank_candidates(tasks, predictions)
    outside = {(sample.task_id, sample.query) for sample in samples if not sample.in_region}
    results = {
        task.id: [
            _result(task, query, candidates[task.id][query], (task.id, query) not in outside)
            for query in range(len(task.tests))
        ]
        for task in tasks
    }
    shares = [_token_share(s, p) for s, p in zip(samples, predictions, strict=True)]
    exact = [share == 1 and sample.in_region for share, sample in zip(shares, samples, strict=True)]
    return EvaluationReport(
        pass_at={k: _pass_at(k, list(results.values())) for k in ks},
        token_accuracy=float(np.mean(shares)) if shares else 0.0,
        exact_accuracy=float(np.mean(exact)) if exact else 0.0,
        samples=len(samples),
        missing=sum(prediction is None for prediction in predictions),
        empty=sum(prediction is not None and prediction.grid.size == 0 for prediction in predictions),
        unanswered=tuple(task_id for task_id, tests in results.items() if not all(r.votes for r in tests)),
        queries=tuple(result for tests in results.values() for result in tests),
        candidates=candidates,
    )


def _result(task: Task, query: int, candidates: tuple[Candidate, ...], in_region: bool) -> QueryResult:
    output = task.tests[query].output
    if output is None:
        raise ArgumentError(
            "evaluate.no-known-output", f"the output of {task.id}[{query}] is unknown, so it cannot be scored"
        )
    return QueryResult(
        task_id=task.id,
        query=query,
        in_region=in_region,
        votes=sum(candidate.votes for candidate in candidates),
        candidates=len(candidates),
        rank=_place(output, candidates) if in_region else None,
    )


def _place(output: Grid, candidates: tuple[Candidate, ...]) -> int | None:
    for place, candidate in enumerate(candidates, start=1):
        if np.array_equal(candidate.grid, output):
            return place
    return None


def _pass_at(k: int, results: Sequence[Sequence[QueryResult]]) -> PassK:
    if k < 1:
        raise ArgumentError("evaluate.no-candidates", f"pass@{k} is not defined: k must be at least 1")
    solved = [[result.solved(k) for result in tests] for tests in results]
    share = sum(sum(tests) / len(tests) for tests in solved) / len(results)
    whole = sum(all(tests) for tests in solved)
    low, high = binomial_interval(whole, len(results))
    return PassK(k, share, whole, len(results), low, high)


def _token_share(sample: Sample, prediction: Prediction | None) -> float:
    scored = sample.labels != IGNORE
    if prediction is None or not scored.any():
        return 0.0
    return float((prediction.tokens == sample.labels)[scored].mean())
