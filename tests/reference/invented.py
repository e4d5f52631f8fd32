"""Invented tasks, and real loaders of small configs."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from etrm.config import NO_STREAM, Config, load, with_settings
from etrm.data import Episodes, Pair, Task, TaskSet
from etrm.data.augment import draw_augmentation
from etrm.reference.data.loader import ReferenceLoader
from etrm.training.task_sets import load_training_tasks

GRIDS = arrays.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 9))
AUGMENTATIONS = st.integers(0, 2**32).map(lambda seed: draw_augmentation(np.random.default_rng(seed)))


def make_task(task_id: str, *, demos: int = 3, side: int = 6, colours: int = 10) -> Task:
    """A random task whose output is its input upside down."""
    rng = np.random.default_rng([*task_id.encode()])

    def pair() -> Pair:
        grid = rng.integers(0, colours, (side, side)).astype(np.uint8)
        return Pair(grid, grid[::-1].copy())

    return Task(task_id, tuple(pair() for _ in range(demos)), (pair(),))


def make_tasks(*tasks: Task) -> TaskSet:
    return TaskSet(tasks, "invented", "training")


def few_of(preset: str, **changes: Any) -> Config:
    """A preset with few tasks: those of the rules take long to draw."""
    config = load(preset)
    tasks = {"max_tasks": min(config.data.max_tasks or 40, 40)}
    held_out = {"max_tasks": min(config.evaluate.max_tasks or 10, 10)}
    data = {**tasks, **NO_STREAM, **changes.pop("data", {})}
    evaluate = {**held_out, **changes.pop("evaluate", {})}
    return with_settings(config, data=data, evaluate=evaluate, **changes)


def build_loaders(config: Config) -> tuple[Episodes, ReferenceLoader]:
    """The real loader of a config, and the reference."""
    tasks = load_training_tasks(config)
    episodes = Episodes(tasks, config.data, config.model.variant, config.train.seed)
    return episodes, ReferenceLoader(tasks, config.data, config.model.has_encoder, config.train.seed)
