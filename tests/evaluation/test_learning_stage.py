"""Curves of a known shape, with the levels that were measured for the rule family."""

from __future__ import annotations

import numpy as np
import pytest

from etrm.evaluation.learning_stage import (
    Generalisation,
    LearningStage,
    SolvedCount,
    classify_stage,
    compare_rules,
)

RNG = np.random.default_rng(0)


def curve(*points: tuple[int, float]) -> list[float]:
    """A curve through (step, value), with 3 % of noise."""
    steps, values = zip(*points, strict=True)
    clean = np.interp(np.arange(steps[-1]), steps, values)
    return list(clean * (1 + 0.03 * RNG.standard_normal(len(clean))))


START = [(0, 2.4), (100, 0.6)]
FLAT = [*START, (400, 0.47), (1200, 0.43)]
FALLING = [*FLAT, (1500, 0.25)]
FITTED = [*FALLING, (1800, 0.01), (2000, 0.01)]


@pytest.mark.parametrize(
    ("points", "exact", "stage"),
    [
        ([*START[:1], (30, 1.0)], 0.0, LearningStage.TOO_SHORT),
        (START, 0.02, LearningStage.START),
        (FLAT, 0.12, LearningStage.PLATEAU),
        (FALLING, 0.5, LearningStage.TRANSITION),
        (FITTED, 0.98, LearningStage.CONVERGED),
        ([*FALLING, (3500, 0.25)], 0.5, LearningStage.PLATEAU),  # a second one, below the first
    ],
)
def test_the_stage_of_a_curve(points: list[tuple[int, float]], exact: float, stage: LearningStage) -> None:
    losses = curve(*points)
    assert classify_stage(losses, [exact] * len(losses)) is stage


@pytest.mark.parametrize(
    ("trained", "unseen", "found"),
    [
        ((60, 500), (17, 200), Generalisation.NEITHER),
        ((495, 500), (20, 200), Generalisation.MEMORISING),
        ((495, 500), (196, 200), Generalisation.INFERRING),
        ((495, 500), (170, 200), Generalisation.MEMORISING),  # 14 points below
        ((5, 6), (3, 6), Generalisation.UNDECIDED),
    ],
)
def test_memory_and_inference(
    trained: tuple[int, int], unseen: tuple[int, int], found: Generalisation
) -> None:
    assert compare_rules(SolvedCount(*trained), SolvedCount(*unseen)) is found


def test_every_result_has_words() -> None:
    assert len({member.words for kind in (LearningStage, Generalisation) for member in kind}) == 9
