"""Baselines against the numbers that the documents print."""

from __future__ import annotations

import numpy as np
import pytest

from etrm.config import DataConfig
from etrm.data.episodes import build_evaluation_samples
from etrm.data.sources import TaskSet, load_tasks
from etrm.data.task import Pair, Task
from etrm.evaluation.baselines import BASELINES, evaluate_baselines
from etrm.evaluation.passk import predict
from etrm.evaluation.voting import Prediction


def tiny() -> TaskSet:
    black, red = np.zeros((2, 2), dtype=np.uint8), np.full((2, 2), 2, dtype=np.uint8)
    mixed = np.array([[2, 5, 5]], dtype=np.uint8)
    demos = (Pair(black, red), Pair(black + 1, red))
    tests = (Pair(mixed, mixed), Pair(black + 3, red), Pair(red, black))
    return TaskSet((Task("tiny", demos, tests),), "invented", "evaluation")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("copy input", [[[2, 5, 5]], [[3, 3], [3, 3]], [[2, 2], [2, 2]]]),
        ("all black", [[[0, 0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]]),
        ("most frequent colour", [[[2, 2, 2]], [[2, 2], [2, 2]], [[2, 2], [2, 2]]]),
    ],
)
def test_each_baseline_by_hand(name: str, expected: list[list[list[int]]]) -> None:
    samples = build_evaluation_samples(tiny(), DataConfig(), 1, 0)
    found = [
        prediction for prediction in predict(samples, BASELINES[name]) if isinstance(prediction, Prediction)
    ]
    assert [prediction.grid.tolist() for prediction in found] == expected
    report = evaluate_baselines(tiny())[name]
    assert report.pass_at[1].score == pytest.approx(1 / 3)


@pytest.mark.parametrize("canvas", ["region", "published"])
@pytest.mark.parametrize(
    ("subset", "copied", "black", "frequent"),
    [("training", 0.604, 0.485, 0.527), ("evaluation", 0.608, 0.479, 0.527)],
)
def test_token_accuracy_without_learning(
    canvas: str, subset: str, copied: float, black: float, frequent: float
) -> None:
    reports = evaluate_baselines(load_tasks("arc-agi-1", subset), DataConfig(canvas=canvas))
    found = {name: round(report.token_accuracy, 3) for name, report in reports.items()}
    assert found == {"copy input": copied, "all black": black, "most frequent colour": frequent}
    assert all(report.pass_at[1].solved == 0 for report in reports.values())
