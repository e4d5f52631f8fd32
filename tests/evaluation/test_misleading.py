"""Scores that overstate a model, with predictions that are known to be right or wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from etrm.config import DataConfig
from etrm.data import TaskSet, build_evaluation_samples
from etrm.data.sample import Sample
from etrm.data.task import Grid, Pair, Task
from etrm.data.tokens import FIRST_COLOUR, PAD, read_grid, to_canvas
from etrm.evaluation import BASELINES, binomial_interval
from etrm.evaluation.misleading import (
    Misleading,
    MisleadingScores,
    Share,
    fit_true_sizes,
    make_pair_tasks,
    score_misleading,
)
from etrm.evaluation.voting import Answer, Predictor

Planted = Callable[..., Predictor]


def square_tasks(count: int, tests: int = 1, demos: int = 3) -> TaskSet:
    """Tasks whose grids are all 4x4, so that every output lies within the region of its query."""
    rng = np.random.default_rng(0)

    def pair() -> Pair:
        first, second = rng.integers(1, 10, (2, 4, 4)).astype(np.uint8)
        return Pair(first, second)

    made = [
        Task(f"t{index}", tuple(pair() for _ in range(demos)), tuple(pair() for _ in range(tests)))
        for index in range(count)
    ]
    return TaskSet(tuple(made), "invented", "evaluation")


def scored(
    tasks: TaskSet, predictor: Predictor, noisy: Predictor | None = None
) -> dict[str, tuple[float, int]]:
    found: MisleadingScores = score_misleading(tasks, predictor, noisy, augmentations=2, variant="etrm")
    return {str(kind): (share.value, share.of) for kind, share in found.items()}


def test_a_single_demonstration_leaves_no_pair_to_pose(planted: Planted) -> None:
    found = scored(square_tasks(2, demos=1), planted(lambda sample: True))
    assert found.keys() == {"tasks", "true-size", "noise", "cells"}


def test_solved_pairs_are_no_solved_tasks(planted: Planted) -> None:
    """The first query of every task is right: no task is solved, but every demonstration pair is."""
    found = scored(square_tasks(5, tests=2), planted(lambda sample: sample.query == 0))
    assert found == {
        "tasks": (0.0, 5),
        "pairs": (1.0, 15),
        "true-size": (0.0, 5),
        "noise": (0.0, 5),
        "all-three": (1.0, 15),
        "cells": (0.5, 10),
    }


def test_right_cells_in_a_larger_grid_count_only_with_the_true_size() -> None:
    def larger(samples: Sequence[Sample]) -> list[Answer]:
        return [(np.maximum(np.where(s.labels < 0, PAD, s.labels), FIRST_COLOUR), 0.0) for s in samples]

    assert scored(square_tasks(3), larger) == {
        "tasks": (0.0, 3),
        "pairs": (0.0, 9),
        "true-size": (1.0, 3),
        "noise": (0.0, 3),
        "all-three": (1.0, 9),
        "cells": (1.0, 3),
    }


def test_noise_is_in_the_scores_that_name_it(oracle: Predictor, wrong: Predictor) -> None:
    assert scored(square_tasks(3), wrong, oracle) == {
        "tasks": (0.0, 3),
        "pairs": (0.0, 9),
        "true-size": (0.0, 3),
        "noise": (1.0, 3),
        "all-three": (1.0, 9),
        "cells": (0.0, 3),
    }


def test_a_query_without_an_answer_has_no_right_cell(planted: Planted) -> None:
    found = scored(square_tasks(2), planted(lambda sample: None if sample.task_id == "t0" else True))
    assert found["tasks"] == (0.5, 2)
    assert found["cells"] == (0.5, 2)


def test_a_pair_is_answered_from_the_other_demonstrations() -> None:
    tasks = square_tasks(2)
    pairs = make_pair_tasks(tasks)
    samples = build_evaluation_samples(pairs, DataConfig(), 1, 0, variant="etrm")
    assert [sample.task_id for sample in samples] == [f"t{i}-pair-{k}" for i in range(2) for k in range(3)]
    for sample in samples:
        task = tasks.get(sample.task_id[:2])
        assert np.array_equal(sample.target, task.demos[int(sample.task_id[-1])].output)
        assert len(sample.demos) == 2


def test_a_task_with_one_demonstration_has_no_pair_to_answer() -> None:
    both = TaskSet(
        (*square_tasks(1).tasks, Task("u", *((square_tasks(1, demos=1).tasks[0].demos,) * 2))), "", ""
    )
    assert [task.id for task in make_pair_tasks(both)] == ["t0-pair-0", "t0-pair-1", "t0-pair-2"]


@pytest.mark.parametrize("true", [(2, 3), (4, 4), (1, 1)])
def test_an_answer_gets_the_true_size(true: tuple[int, int]) -> None:
    """It is cropped where it is larger, and padded with black where it is smaller, as the original did."""
    output: Grid = np.full(true, 7, dtype=np.uint8)
    task = square_tasks(1).tasks[0]
    tasks = TaskSet((Task("t0", task.demos, (Pair(task.tests[0].input, output),)),), "", "")
    (sample,) = build_evaluation_samples(tasks, DataConfig(), 1, 0, variant="etrm")
    guess = to_canvas(np.full((3, 3), 5, dtype=np.uint8)).ravel()[sample.positions]
    ((tokens, logit),) = fit_true_sizes(lambda samples: [(guess, 0.25)])([sample])
    assert logit == 0.25
    wanted = np.zeros((4, 4), dtype=np.uint8)
    wanted[:3, :3] = 5
    assert np.array_equal(read_grid(tokens.reshape(sample.region)), wanted[: true[0], : true[1]])


def test_copying_the_input_by_hand() -> None:
    same, half = np.array([[1, 2]], dtype=np.uint8), np.array([[1, 5]], dtype=np.uint8)
    demos = (Pair(same, same), Pair(half, same))
    tasks = TaskSet((Task("t", demos, (Pair(same, same), Pair(half, same))),), "", "")
    found = score_misleading(tasks, BASELINES["copy input"], augmentations=1, variant="trm")
    assert found[Misleading.TASKS] == Share.counted(0, 1)
    assert found[Misleading.PAIRS] == Share.counted(1, 2)
    assert found[Misleading.CELLS].value == 0.75  # all of the first query, half of the second


def test_shares_have_intervals() -> None:
    counted = Share.counted(1, 4)
    assert (counted.low, counted.high) == binomial_interval(1, 4)
    mean = Share.averaged([0.5, 0.7, 0.9])
    assert mean.value == pytest.approx(0.7)
    assert 0.7 - mean.low == pytest.approx(4.3027 * 0.2 / 3**0.5, rel=1e-3)  # Student's t, two degrees
    alone = Share.averaged([0.5])
    assert (alone.low, alone.high, alone.of) == (0.0, 1.0, 1)
