"""Planted predictions: the score must be the one that was planted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etrm.config import DataConfig
from etrm.data.augment import identity
from etrm.data.episodes import build_evaluation_samples
from etrm.data.sample import Sample
from etrm.data.sources import TaskSet, load_tasks
from etrm.data.task import Pair, Task
from etrm.errors import ArgumentError, DataError
from etrm.evaluation.passk import KS, EvaluationReport, evaluate, predict, score
from etrm.evaluation.statistics import binomial_interval
from etrm.evaluation.voting import Answer, Predictor
from tests.errors import raises_code

MakeTasks = Callable[..., TaskSet]
Planted = Callable[[Callable[[Sample], bool | None]], Predictor]


def summary(report: EvaluationReport) -> Any:
    """Everything but the grids."""
    return replace(report, candidates={})


@pytest.mark.parametrize("tests", [1, 3])
def test_the_oracle_solves_everything(make_tasks: MakeTasks, oracle: Predictor, tests: int) -> None:
    report = evaluate(make_tasks(5, tests), oracle, augmentations=9)
    assert tuple(report.pass_at) == KS
    for passed in report.pass_at.values():
        assert (passed.score, passed.solved, passed.asked) == (1.0, 5, 5)
        assert (passed.low, passed.high) == binomial_interval(5, 5)
    assert (report.token_accuracy, report.exact_accuracy) == (1.0, 1.0)
    assert (report.samples, report.missing, report.empty) == (45 * tests, 0, 0)
    assert {result.votes for result in report.queries} == {9}


def test_the_wrong_predictor_solves_nothing(make_tasks: MakeTasks, wrong: Predictor) -> None:
    report = evaluate(make_tasks(5, 2), wrong, augmentations=9)
    for passed in report.pass_at.values():
        assert (passed.score, passed.solved, passed.asked) == (0.0, 0, 5)
    assert report.exact_accuracy == 0
    assert 0 < report.token_accuracy < 0.7  # EOS is right, no colour is


@pytest.mark.parametrize("count", [4, 64, 400])
def test_the_rate_does_not_depend_on_how_many_are_asked(
    make_tasks: MakeTasks, planted: Planted, count: int
) -> None:
    report = evaluate(make_tasks(count), planted(lambda s: int(s.task_id, 16) % 4 == 0), augmentations=2)
    assert report.pass_at[1].score == pytest.approx(0.25)
    assert (report.pass_at[1].solved, report.pass_at[1].asked) == (count // 4, count)
    assert report.exact_accuracy == pytest.approx(0.25)


@given(solved=st.sets(st.integers(0, 10)))
@settings(max_examples=25)
def test_any_planted_set_of_tasks_is_found(solved: set[int]) -> None:
    tasks = load_tasks("arc-agi-1", "evaluation", max_side=8, max_tasks=11)
    chosen = {tasks.tasks[index].id for index in solved}

    def answer(samples: Sequence[Sample]) -> list[Answer | None]:
        return [(np.maximum(s.labels, 0) if s.task_id in chosen else 0 * s.labels, 0.0) for s in samples]

    report = evaluate(tasks, answer, augmentations=3, data=DataConfig(canvas="published"), ks=(1, 2))
    assert report.pass_at[2].solved == len(chosen)
    assert report.empty == 3 * sum(len(task.tests) for task in tasks if task.id not in chosen)


def test_a_task_half_solved_counts_half_in_the_score_and_not_in_the_interval(
    make_tasks: MakeTasks, planted: Planted
) -> None:
    report = evaluate(make_tasks(4, tests=2), planted(lambda s: s.query == 0), augmentations=1)
    assert report.pass_at[1].score == pytest.approx(0.5)
    assert report.pass_at[1].solved == 0
    assert (report.pass_at[1].low, report.pass_at[1].high) == binomial_interval(0, 4)
    assert str(report.pass_at[1]) == "pass@1 50.0%, solved 0/4 (95 % interval 0.0% to 60.2%)"


def test_a_minority_answer_is_found_at_two_but_not_at_one(make_tasks: MakeTasks, planted: Planted) -> None:
    predictor = planted(lambda s: s.name.endswith(identity().name))  # one vote of three
    report = evaluate(make_tasks(6), predictor, augmentations=3, ks=(1, 2, 5))
    assert report.pass_at[1].score < 1
    assert report.pass_at[5].score == 1
    assert all(result.candidates >= 2 for result in report.queries)
    assert report.exact_accuracy == pytest.approx(1 / 3)


def test_tasks_without_a_prediction_count_zero(make_tasks: MakeTasks, planted: Planted) -> None:
    predictor = planted(lambda s: True if int(s.task_id, 16) < 3 else None)
    report = evaluate(make_tasks(4, tests=2), predictor, augmentations=2)
    assert (report.pass_at[1000].score, report.pass_at[1000].asked) == (0.75, 4)
    assert report.unanswered == ("00000003",)
    assert report.missing == 4
    assert report.token_accuracy == report.exact_accuracy == 0.75


def test_a_task_with_one_silent_test_is_named(make_tasks: MakeTasks, planted: Planted) -> None:
    predictor = planted(lambda s: None if (s.task_id, s.query) == ("00000002", 1) else True)
    report = evaluate(make_tasks(4, tests=2), predictor, augmentations=1)
    assert report.unanswered == ("00000002",)
    assert (report.pass_at[1].score, report.pass_at[1].solved) == (0.875, 3)


def test_a_task_that_was_asked_but_has_no_sample_counts_zero(
    make_tasks: MakeTasks, oracle: Predictor
) -> None:
    tasks = make_tasks(4)
    samples = [s for s in build_evaluation_samples(tasks, DataConfig(), 2, 0) if s.task_id != "00000001"]
    report = score(tuple(tasks), samples, predict(samples, oracle))
    assert (report.pass_at[1].score, report.pass_at[1].asked) == (0.75, 4)
    assert report.unanswered == ("00000001",)


def test_predictions_for_tasks_that_were_not_asked_change_nothing(
    make_tasks: MakeTasks, oracle: Predictor
) -> None:
    samples = build_evaluation_samples(make_tasks(4), DataConfig(), 2, 0)
    report = score(make_tasks(2).tasks, samples, predict(samples, oracle))
    assert (report.pass_at[1].solved, report.pass_at[1].asked) == (2, 2)


def test_votes_never_leak_into_the_next_evaluation(
    make_tasks: MakeTasks, oracle: Predictor, wrong: Predictor
) -> None:
    tasks = make_tasks(5)
    fresh = evaluate(tasks, wrong, augmentations=4)
    solved = evaluate(tasks, oracle, augmentations=4)
    again = evaluate(tasks, wrong, augmentations=4)
    assert summary(fresh) == summary(again)
    assert summary(solved) == summary(evaluate(tasks, oracle, augmentations=4))
    for task_id, tests in again.candidates.items():
        assert [c.votes for ranked in tests for c in ranked] == [
            c.votes for ranked in fresh.candidates[task_id] for c in ranked
        ]


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_the_batch_size_changes_nothing(make_tasks: MakeTasks, planted: Planted, batch_size: int) -> None:
    predictor = planted(lambda s: s.serial % 3 == 0)
    tasks = make_tasks(6, tests=2)
    report = evaluate(tasks, predictor, augmentations=4, batch_size=batch_size)
    assert summary(report) == summary(evaluate(tasks, predictor, augmentations=4))


def test_batches_are_asked_in_samples_of_rising_length(make_tasks: MakeTasks) -> None:
    asked: list[list[int]] = []

    def record(samples: Sequence[Sample]) -> list[None]:
        asked.append([len(sample.tokens) for sample in samples])
        return [None] * len(samples)

    evaluate(make_tasks(10), record, augmentations=3, batch_size=7)
    lengths = [length for batch in asked for length in batch]
    assert lengths == sorted(lengths)
    assert [len(batch) for batch in asked] == [7, 7, 7, 7, 2]


def outside_task() -> Task:
    small, large = np.ones((2, 2), dtype=np.uint8), np.ones((9, 9), dtype=np.uint8)
    return Task("outside", (Pair(small, 2 * small),), (Pair(3 * small, large), Pair(4 * small, small)))


def test_an_output_outside_its_region_is_reported_and_unsolved(oracle: Predictor) -> None:
    tasks = TaskSet((outside_task(),), "invented", "evaluation")
    report = evaluate(tasks, oracle, augmentations=2)
    assert report.out_of_region == ("outside[0]",)
    assert [result.rank for result in report.queries] == [None, 1]
    assert report.pass_at[1000].score == 0.5
    assert (report.token_accuracy, report.exact_accuracy) == (1.0, 0.5)
    whole = evaluate(tasks, oracle, augmentations=2, data=DataConfig(canvas="published"))
    assert whole.out_of_region == ()
    assert whole.pass_at[1].score == whole.exact_accuracy == 1.0


def test_unknown_outputs_cannot_be_scored(make_tasks: MakeTasks, oracle: Predictor) -> None:
    known, hidden = make_tasks(2)
    hidden = replace(hidden, tests=(Pair(hidden.tests[0].input, None),))
    with raises_code(DataError, "evaluate.unknown-outputs", 1, hidden.id):
        evaluate(TaskSet((known, hidden), "invented", "evaluation"), oracle, augmentations=1)


def test_a_predictor_that_drops_samples_is_refused(make_tasks: MakeTasks, oracle: Predictor) -> None:
    with raises_code(ArgumentError, "evaluate.wrong-number-of-answers", 1, 2):
        evaluate(make_tasks(2), lambda samples: oracle(samples)[:1], augmentations=1)


def test_nonsense_is_refused(make_tasks: MakeTasks, oracle: Predictor) -> None:
    with raises_code(ArgumentError, "evaluate.no-candidates", "pass@0"):
        evaluate(make_tasks(1), oracle, augmentations=1, ks=(0,))
    with raises_code(ArgumentError, "evaluate.no-tasks"):
        score((), [], [])
    with raises_code(ArgumentError, "evaluate.duplicate-task"):
        score(make_tasks(1).tasks * 2, [], [])
    with raises_code(ArgumentError, "evaluate.bad-batch-size", 0):
        evaluate(make_tasks(1), oracle, augmentations=1, batch_size=0)


@pytest.mark.parametrize("subset", ["training", "evaluation"])
def test_the_oracle_on_the_published_sets(subset: str, oracle: Predictor) -> None:
    tasks = load_tasks("arc-agi-1", subset)
    report = evaluate(tasks, oracle, augmentations=2)
    assert report.pass_at[1].solved == 400 - len({name[:8] for name in report.out_of_region})
    assert 0 < len(report.out_of_region) < 0.015 * len(report.queries) + 1
    whole = evaluate(tasks, oracle, augmentations=1, data=DataConfig(canvas="published"))
    assert (whole.pass_at[1].score, whole.exact_accuracy) == (1.0, 1.0)
