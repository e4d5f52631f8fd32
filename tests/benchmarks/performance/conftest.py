from __future__ import annotations

import numpy as np
import pytest

from benchmarks.performance.model.workload import make_config
from etrm.config import Config
from etrm.data import Pair, Task, TaskSet


@pytest.fixture(scope="session")
def config() -> Config:
    """The bench's config, small."""
    return make_config(train={"batch_size": 2}, model={"hidden_size": 8, "num_heads": 2, "context_tokens": 2})


@pytest.fixture(scope="session")
def tasks() -> TaskSet:
    """Tasks of two to four demos, whose sides differ."""
    rng = np.random.default_rng(0)

    def pair(side: int) -> Pair:
        grid = rng.integers(0, 10, (side, side - 1)).astype(np.uint8)
        return Pair(grid, np.fliplr(grid).copy())

    made = (
        Task(f"task{i}", tuple(pair(2 + (i + k) % 6) for k in range(2 + i % 3)), (pair(3 + i % 4),))
        for i in range(16)
    )
    return TaskSet(tuple(made), "invented", "training")
