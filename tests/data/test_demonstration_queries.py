from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from etrm.config import DataConfig
from etrm.data.augment import identity
from etrm.data.demonstration_queries import pose_demonstrations, read_pair
from etrm.data.episodes import Episodes
from etrm.data.sample import GridLayout, Sample, build, list_queries
from etrm.data.sources import TaskSet
from etrm.data.task import Pair, Task


def invented(seed: int, demos: int = 3) -> Task:
    rng = np.random.default_rng(seed)

    def pair() -> Pair:
        return Pair(*(rng.integers(0, 10, rng.integers(1, 6, 2)).astype(np.uint8) for _ in range(2)))

    return Task(f"task{seed}", tuple(pair() for _ in range(demos)), (pair(),))


def shown(task: Task, canvas: str = "region") -> Sample:
    return build(list_queries(task, 0)[0], identity(), GridLayout(canvas, 10), serial=7, puzzle_id=3)


@pytest.mark.parametrize("canvas", ["region", "published"])
@pytest.mark.parametrize("seed", range(4))
def test_demonstrations_are_posed_as_the_training_loader_leaves_them_out(canvas: str, seed: int) -> None:
    task = invented(seed)
    expected = [
        build(query, identity(), GridLayout(canvas, 10), serial=7, puzzle_id=3)
        for query in list_queries(replace(task, tests=()), 0, "leave_one_out")
    ]
    posed = pose_demonstrations(shown(task, canvas))
    assert len(posed) == len(expected) == 3
    for got, wanted in zip(posed, expected, strict=True):
        for name in ("tokens", "positions", "labels"):
            assert np.array_equal(getattr(got, name), getattr(wanted, name)), name
        assert [d.tokens.tolist() for d in got.demos] == [d.tokens.tolist() for d in wanted.demos]
        assert (got.region, got.serial, got.puzzle_id) == (wanted.region, 7, 3)


def test_shifted_grids_are_read_wherever_they_are() -> None:
    task = invented(5)
    data = DataConfig(source="rules", translate=9)
    episodes = Episodes(TaskSet((task,), "invented", "training"), data, "etrm", 0)
    for index in range(6):
        sample = episodes.sample(0, index)
        assert tuple(read_pair(demo) for demo in sample.demos) == task.demos


def test_neither_the_query_nor_its_answer_is_read() -> None:
    sample = shown(invented(1))
    empty = np.zeros(0, dtype=np.int16)
    blind = replace(sample, tokens=empty, positions=empty, labels=empty, target=None)
    for got, wanted in zip(pose_demonstrations(blind), pose_demonstrations(sample), strict=True):
        assert np.array_equal(got.labels, wanted.labels)


def test_a_single_demonstration_keeps_its_own_region() -> None:
    (posed,) = pose_demonstrations(shown(invented(2, demos=1)))
    pair = invented(2, demos=1).demos[0]
    assert posed.in_region
    assert max(posed.region) <= 1 + 5 * 5  # as the pair itself scales, and not the whole canvas
    assert len(posed.demos) == 1
    assert read_pair(posed.demos[0]) == pair
