"""Invented tasks, and predictors whose score is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from etrm.batch import IGNORE
from etrm.data.sample import Sample
from etrm.data.sources import TaskSet
from etrm.data.task import Grid, Pair, Task
from etrm.data.tokens import EOS, PAD
from etrm.evaluation.voting import Answer


def grid(rng: np.random.Generator, height: int, width: int) -> Grid:
    return rng.integers(0, 10, (height, width)).astype(np.uint8)


def pair(rng: np.random.Generator) -> Pair:
    height, width = rng.integers(2, 6, 2)  # oblong as a rule, so that a wrong transform shows
    return Pair(grid(rng, height, width), grid(rng, height, width))


@pytest.fixture
def make_tasks() -> Callable[..., TaskSet]:
    def make(count: int, tests: int = 1, seed: int = 0) -> TaskSet:
        rng = np.random.default_rng(seed)
        return TaskSet(
            tuple(
                Task(
                    f"{index:08x}", tuple(pair(rng) for _ in range(3)), tuple(pair(rng) for _ in range(tests))
                )
                for index in range(count)
            ),
            "invented",
            "evaluation",
        )

    return make


def true_answer(sample: Sample) -> Answer:
    return np.where(sample.labels == IGNORE, PAD, sample.labels), 0.0


def wrong_answer(sample: Sample) -> Answer:
    """Every colour replaced by the next one, so that no cell is right."""
    tokens, q_halt = true_answer(sample)
    return np.where(tokens > EOS, 2 + (tokens - 1) % 10, tokens), q_halt


@pytest.fixture
def oracle() -> Callable[[Sequence[Sample]], list[Answer | None]]:
    return lambda samples: [true_answer(sample) for sample in samples]


@pytest.fixture
def wrong() -> Callable[[Sequence[Sample]], list[Answer | None]]:
    return lambda samples: [wrong_answer(sample) for sample in samples]


@pytest.fixture
def planted() -> Callable[..., Callable[[Sequence[Sample]], list[Answer | None]]]:
    """A predictor that is right where a function of the sample says True, wrong at False, silent at None."""

    def make(right: Callable[[Sample], bool | None]) -> Callable[[Sequence[Sample]], list[Answer | None]]:
        def answer(sample: Sample) -> Answer | None:
            verdict = right(sample)
            if verdict is None:
                return None
            return true_answer(sample) if verdict else wrong_answer(sample)

        return lambda samples: [answer(sample) for sample in samples]

    return make
