"""The baselines by the reference: written-out answers, the real baselines, and planted changes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from etrm.config import DataConfig
from etrm.data import Sample, TaskSet
from etrm.data.task import Pair, Task
from etrm.data.tokens import EOS
from etrm.evaluation import Answer, Predictor, baselines, evaluate_baselines
from etrm.investigation.reference_comparison.plain_values import plain_report
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.evaluation.evaluation_stages import EvaluationRequest
from etrm.reference.evaluation.trivial_answers import compare_baselines
from tests.reference.invented import make_tasks


def make_pair(given: Sequence[Sequence[int]], output: Sequence[Sequence[int]]) -> Pair:
    return Pair(np.array(given, dtype=np.uint8), np.array(output, dtype=np.uint8))


RED = make_pair([[1, 1, 1], [1, 1, 2]], [[2, 2, 2], [2, 1, 1]])
"""A demonstration with more of colour 1 in its input and more of colour 2 in its output."""


def make_task(name: str, test: Pair) -> Task:
    return Task(name, (RED,), (test,))


TASKS = make_tasks(
    make_task("copied", make_pair([[3, 4]], [[3, 4]])),
    make_task("black", make_pair([[3, 4]], [[0, 0]])),
    make_task("red", make_pair([[3, 4]], [[2, 2]])),
    make_task("none", make_pair([[3, 4]], [[1, 1]])),
)
"""Each of the first three is solved by one baseline."""
KS = (1, 2)
REQUEST = EvaluationRequest(TASKS, DataConfig(), augmentations=1, seed=0, ks=KS)


def compare(tasks: TaskSet = TASKS) -> list[Departure]:
    reports = evaluate_baselines(tasks, DataConfig(), KS)
    return compare_baselines(REQUEST, {name: plain_report(report) for name, report in reports.items()})


def test_the_baselines_solve_what_they_should_and_depart_nowhere() -> None:
    reports = evaluate_baselines(TASKS, DataConfig(), KS)
    solved = {
        name: [query.task_id for query in report.queries if query.rank == 1]
        for name, report in reports.items()
    }
    assert solved == {"copy input": ["copied"], "all black": ["black"], "most frequent colour": ["red"]}
    assert compare() == []


def count_inputs(samples: Sequence[Sample]) -> list[Answer]:
    """The most frequent colour of the inputs of the demonstrations, which is 1."""
    return [(np.where(sample.tokens > EOS, 3, sample.tokens), 0.0) for sample in samples]


def answer_ends(samples: Sequence[Sample]) -> list[Answer]:
    """The end markers are black cells too."""
    return [(np.where(sample.tokens >= EOS, 2, sample.tokens), 0.0) for sample in samples]


@pytest.mark.parametrize(
    ("name", "predictor"),
    [("most frequent colour", count_inputs), ("all black", answer_ends), ("copy input", answer_ends)],
)
def test_a_wrong_baseline_is_named(monkeypatch: pytest.MonkeyPatch, name: str, predictor: Predictor) -> None:
    monkeypatch.setattr(baselines, "BASELINES", {**baselines.BASELINES, name: predictor})
    found = compare()
    assert found[0].stage is PipelineStage.VOTES
    assert all(name in departure.where for departure in found)


def test_a_baseline_that_is_left_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    left = {name: answer for name, answer in baselines.BASELINES.items() if name != "copy input"}
    monkeypatch.setattr(baselines, "BASELINES", left)
    assert [departure.tensor for departure in compare()] == ["baselines"]


def test_the_lowest_of_equally_frequent_colours_is_the_answer() -> None:
    even = Task("red", (make_pair([[1]], [[7, 5], [5, 7]]),), (make_pair([[3, 4]], [[5, 5]]),))
    request = EvaluationRequest(make_tasks(even), DataConfig(), augmentations=1, seed=0, ks=KS)
    reports = evaluate_baselines(make_tasks(even), DataConfig(), KS)
    assert reports["most frequent colour"].pass_at[1].solved == 1
    assert compare_baselines(request, {k: plain_report(report) for k, report in reports.items()}) == []
