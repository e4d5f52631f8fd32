"""Small invented tasks, and the published sets read once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache

import numpy as np
import pytest

from etrm.data import Pair, Sample, Task, TaskSet, load_tasks

MakeTask = Callable[..., Task]


@pytest.fixture(scope="session")
def published() -> Callable[..., TaskSet]:
    """``load_tasks`` with a memory."""
    return lru_cache(maxsize=None)(load_tasks)


@pytest.fixture(scope="session")
def make_task() -> MakeTask:
    """A random task whose output is its input upside down."""

    def make(task_id: str, demos: int = 3, tests: int = 1, side: int = 5, seed: int = 0) -> Task:
        rng = np.random.default_rng([seed, *task_id.encode()])

        def pair() -> Pair:
            grid = rng.integers(0, 10, rng.integers(2, side + 1, size=2)).astype(np.uint8)
            return Pair(grid, np.flipud(grid).copy())

        return Task(task_id, tuple(pair() for _ in range(demos)), tuple(pair() for _ in range(tests)))

    return make


@pytest.fixture(scope="session")
def as_plain() -> Callable[[Sample], dict[str, object]]:
    """A sample as values that compare."""

    def plain_of(sample: Sample) -> dict[str, object]:
        plain: dict[str, object] = {}
        for field in fields(sample):
            value = getattr(sample, field.name)
            plain[field.name] = value.tolist() if isinstance(value, np.ndarray) else value
        plain["demos"] = [(demo.tokens.tolist(), demo.positions.tolist()) for demo in sample.demos]
        return plain

    return plain_of


@pytest.fixture(scope="session")
def small_set(make_task: MakeTask) -> TaskSet:
    """Nine tasks of growing size, ten queries."""
    tasks = [make_task(f"task{i}", side=3 + i, tests=2 if i == 4 else 1) for i in range(9)]
    return TaskSet(tuple(tasks), "invented", "training")
