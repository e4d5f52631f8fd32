"""Pass@k over the tasks that were asked, each of which has a prediction or counts 0."""

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
"""For each task id, for each of its tests, the candidates in their order."""


@dataclass(frozen=True)
class PassK:
    """Pass@k of one evaluation.

    Attributes:
        k: candidates that may be tried on each test input.
        score: mean over the asked tasks of the share of test inputs solved.
        solved: tasks all of whose test inputs are solved; a task half solved is not among them.
        asked: tasks.
        low: lower end of the exact 95 % binomial interval of solved / asked.
        high: its upper end. The score itself may lie above it, by the tasks half solved.
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
    """What became of one test input.

    Attributes:
        task_id: the task.
        query: index among its tests.
        in_region: whether the true output lies where the model can answer; if not, it is unsolved.
        votes: predictions.
        candidates: different answers among them.
        rank: place of the true output among the candidates, from 1; None if it is not there.
    """

    task_id: str
    query: int
    in_region: bool
    votes: int
    candidates: int
    rank: int | None

    def solved(self, k: int) -> bool:
        """Whether the true output is among the first k candidates."""
        return self.rank is not None and self.rank <= k


@dataclass(frozen=True)
class EvaluationReport:
    """One evaluation.

    Attributes:
        pass_at: pass@k by k.
        token_accuracy: over all samples, the mean share of scored tokens (colours and EOS) that are
            right; a sample without a prediction counts 0.
        exact_accuracy: share of samples with every scored token right and the output in the region.
        samples: samples that were asked: tests times augmentations.
        missing: samples without a prediction.
        empty: predictions that hold no grid.
        unanswered: asked tasks with a test that has no prediction at all.
        queries: every test input of every asked task.
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
        """Queries whose true output lies outside the region, as ``task id[query]``."""
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
    """Ask every test query of the tasks under some augmentations, vote, and score.

    Nothing outlives the call. The other arguments are those of
    :func:`etrm.data.episodes.build_evaluation_samples`, which lays the samples out.

    Raises:
        DataError: a test output is unknown, or a sample cannot be laid out.
    """
    unknown = [task.id for task in tasks if any(pair.output is None for pair in task.tests)]
    if unknown:
        raise DataError(
            "evaluate.unknown-outputs",
            f"{tasks.source}: {len(unknown)} tasks have test outputs that are unknown, so none can be scored",
            got=", ".join(unknown[:5]),
            next_step="put the solutions file next to the challenges file, or write a submission",
        )
    layout = DataConfig() if data is None else data
    samples = build_evaluation_samples(tasks, layout, augmentations, seed, variant=variant, trained=trained)
    return score(tuple(tasks), samples, predict(samples, predictor, batch_size), ks)


def predict(samples: Sequence[Sample], predictor: Predictor, batch_size: int = 64) -> list[Prediction | None]:
    """Each sample's prediction, in the order of the samples, asked in batches of similar length."""
    if batch_size < 1:
        raise ArgumentError("evaluate.bad-batch-size", f"batch size {batch_size} is below 1")
    found: list[Prediction | None] = [None] * len(samples)
    order = sorted(range(len(samples)), key=lambda index: (len(samples[index].tokens), index))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        answers = predictor([samples[index] for index in chosen])
        if len(answers) != len(chosen):
            raise ArgumentError(
                "evaluate.wrong-number-of-answers",
                f"the predictor gave {len(answers)} answers to {len(chosen)} samples",
            )
        for index, answer in zip(chosen, answers, strict=True):
            if answer is not None:
                tokens, q_halt = answer
                found[index] = Prediction(samples[index], np.asarray(tokens), float(q_halt))
    return found


def rank_candidates(tasks: Iterable[Task], predictions: Iterable[Prediction | None]) -> Candidates:
    """The candidates of every test of every task; none where nothing was predicted."""
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
    """Score predictions, one per sample, against the outputs of the tasks that were asked."""
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
            "evaluate.no-known-output", f"{task.id}[{query}] has no known output to score against"
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
        raise ArgumentError("evaluate.no-candidates", f"pass@{k}: at least one candidate must be tried")
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
