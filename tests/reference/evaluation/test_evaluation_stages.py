"""Votes and scores by the reference: written-out cases, and any answers against the real evaluator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etrm.config import DataConfig
from etrm.data import Sample, TaskSet, build_evaluation_samples
from etrm.evaluation import Answer, evaluate
from etrm.evaluation.statistics import binomial_interval
from etrm.evaluation.submission import build_submission, find_placeholders
from etrm.investigation.reference_comparison.plain_values import plain_report, plain_row
from etrm.reference.departure import PipelineStage
from etrm.reference.evaluation.evaluation_stages import (
    EvaluationRequest,
    RecordedAnswer,
    bound_share,
    build_attempts,
    compare_queries,
    compare_scores,
    compare_votes,
    compute_scores,
    count_votes,
    list_evaluated,
    list_placeholders,
)
from tests.reference.invented import make_task, make_tasks

TASKS = make_tasks(*(make_task(name, side=3, colours=2) for name in ("one", "two", "three")))
REQUEST = EvaluationRequest(TASKS, DataConfig(), augmentations=3, seed=5)


def record(samples: Sequence[Sample], answers: Sequence[Answer | None]) -> list[RecordedAnswer]:
    return [
        RecordedAnswer(s.task_id, s.query, s.name, plain_row(s), *(answer or (None, 0.0)))
        for s, answer in zip(samples, answers, strict=True)
    ]


def sample_all(tasks: TaskSet = TASKS, votes: int = 3) -> list[Sample]:
    return build_evaluation_samples(tasks, DataConfig(), votes, 5)


def test_the_queries_of_the_evaluator_are_those_of_the_tasks() -> None:
    samples = sample_all()
    assert len(samples) == len(list_evaluated(REQUEST)) == 9
    assert compare_queries(REQUEST, record(samples[::-1], [None] * 9)) == []


@pytest.mark.parametrize(
    ("asked", "size"), [(sample_all()[1:], 1 / 9), ([*sample_all(), sample_all()[0]], 1 / 9), ([], 1.0)]
)
def test_a_query_left_out_or_repeated_is_found(asked: list[Sample], size: float) -> None:
    (found,) = compare_queries(REQUEST, record(asked, [None] * len(asked)))
    assert (found.stage, found.tensor) == (PipelineStage.QUERIES, "queries")
    assert found.size == pytest.approx(size)


def answer_with(sample: Sample, tokens: Sequence[int], q_halt: float) -> Answer:
    """The first row of the region holds some tokens and an end marker, the rest is padding."""
    whole = np.zeros(len(sample.tokens), dtype=np.int64)
    whole[: len(tokens) + 1] = [*tokens, 1]
    return whole, q_halt


def test_more_votes_win_then_halting_then_the_digest() -> None:
    """Grids of one colour that no augmentation changes: black, in rows of different lengths."""
    one = make_tasks(TASKS.tasks[0])
    samples = sample_all(one, votes=16)
    one_row = [s for s in samples if s.name.split("|||")[1] not in ("t1", "t3", "t6", "t7")][:4]
    logits = [(1, -2.0), (2, 0.0), (2, 1.0), (3, 3.0)]
    answers = [answer_with(s, [2] * n, q) for s, (n, q) in zip(one_row, logits, strict=True)]
    ranked = count_votes(one, record(one_row, answers))["one", 0]
    assert [(found.grid.shape[1], found.votes) for found in ranked] == [(2, 2), (3, 1), (1, 1)]
    assert ranked[0].halting == pytest.approx((0.5 + 0.7310585786300049) / 2)


def test_a_task_is_the_mean_of_its_queries_and_wrong_sizes_are_wrong() -> None:
    samples = sample_all(votes=1)
    right = [(np.where(s.labels == -100, 0, s.labels), 0.0) for s in samples]
    too_large = (np.maximum(right[1][0], 2), 0.0)
    answers = record(samples, [right[0], too_large, None])
    request = EvaluationRequest(TASKS, DataConfig(), augmentations=1, seed=5, ks=(1,))
    found = compute_scores(request, answers, count_votes(TASKS, answers)).values
    cells, ends = 9, 6  # 3x3 grids: nine cells, of which the larger answer has all, and six end markers
    assert found == {
        "pass@1.score": pytest.approx(1 / 3),
        "pass@1.solved": 1,
        "pass@1.asked": 3,
        "pass@1.low": pytest.approx(1 - 0.975 ** (1 / 3)),  # none of three with probability .975
        "pass@1.high": pytest.approx(0.9057007),  # binom.test(1, 3) of R
        "token_accuracy": pytest.approx((1 + cells / (cells + ends)) / 3),
        "exact_accuracy": pytest.approx(1 / 3),
        "samples": 3,
        "missing": 1,
        "empty": 0,
        "unanswered": 1,
    }


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1))
def test_any_answers_are_counted_as_the_evaluator_counts_them(
    seed: int, right: float, missing: float
) -> None:
    rng = np.random.default_rng(seed)
    given_answers: list[RecordedAnswer] = []

    def answer(samples: Sequence[Sample]) -> list[Answer | None]:
        answers: list[Answer | None] = []
        for sample in samples:
            noise = rng.integers(0, 4, len(sample.tokens))
            tokens = np.where(rng.random(len(noise)) < right, np.maximum(sample.labels, 0), noise)
            q_halt = float(rng.choice([-40.0, -1.0, 0.0, 50.0, np.nan]))
            answers.append(None if rng.random() < missing else (tokens, q_halt))
        given_answers.extend(record(samples, answers))
        return answers

    evaluated = evaluate(TASKS, answer, augmentations=3, seed=5, ks=REQUEST.ks)
    report = plain_report(evaluated)
    assert compare_queries(REQUEST, given_answers) == []
    assert compare_votes(REQUEST, given_answers, report) == []
    assert compare_scores(REQUEST, given_answers, report) == []
    whole = make_tasks(*TASKS, make_task("large", side=5), make_task("more", side=3))  # than were evaluated
    assert build_attempts(whole, report.candidates) == build_submission(whole, evaluated.candidates)
    reasons = find_placeholders(whole, evaluated.candidates, max_side=4)
    assert list_placeholders(whole, report.candidates, max_side=4) == reasons
    assert (reasons["large"], reasons["more"]) == ("max_side", "max_tasks")


@pytest.mark.parametrize("asked", [1, 3, 400, 2000])  # binomial coefficients of 2,000 exceed any float
@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_two_computations_of_an_interval_agree(asked: int, share: float) -> None:
    solved = round(share * asked)
    assert bound_share(solved, asked) == pytest.approx(binomial_interval(solved, asked), abs=1e-9)
