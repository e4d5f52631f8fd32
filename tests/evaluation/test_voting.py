"""Crop, inverse, and the order of the candidates."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etrm.batch import IGNORE
from etrm.data.augment import Augmentation, identity
from etrm.data.sample import GridLayout, Sample, build, list_queries
from etrm.data.task import Grid, Pair, Task, hash_grid
from etrm.data.tokens import PAD, to_canvas
from etrm.errors import ArgumentError
from etrm.evaluation.voting import Candidate, Prediction, group_by_query, rank
from tests.errors import raises_code

SIDES = st.integers(1, 6)
COLOURS = st.permutations(range(1, 10)).map(lambda rest: (0, *rest))


def filled(colour: int, height: int = 2, width: int = 3) -> Grid:
    return np.full((height, width), colour, dtype=np.uint8)


def sample_of(
    given_grid: Grid,
    output: Grid,
    augmentation: Augmentation | None = None,
    canvas: str = "region",
    name: str = "t",
) -> Sample:
    task = Task(
        name,
        (Pair(output, given_grid), Pair(given_grid, filled(1, *output.shape))),
        (Pair(given_grid, output),),
    )
    return build(list_queries(task, 0)[0], augmentation or identity(), GridLayout(canvas, 10), serial=0)


def says(answer: Grid, q_halt: float = 0.0, augmentation: Augmentation | None = None) -> Prediction:
    """A vote for one answer to one fixed query, whose region is 6x6."""
    chosen = augmentation or identity()
    sample = sample_of(filled(3, 5, 5), filled(4, 5, 5), chosen)
    canvas = to_canvas(chosen.apply(answer), 30)
    return Prediction(sample, canvas[:6, :6].ravel(), q_halt)


@pytest.mark.parametrize("canvas", ["region", "published"])
@pytest.mark.parametrize("dihedral", range(8))
@given(sides=st.tuples(SIDES, SIDES, SIDES, SIDES), colours=COLOURS, seed=st.integers(0, 999))
def test_the_oracle_is_right_under_every_augmentation(
    canvas: str, dihedral: int, sides: tuple[int, int, int, int], colours: tuple[int, ...], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    given_grid = rng.integers(0, 10, sides[:2]).astype(np.uint8)
    output = rng.integers(0, 10, sides[2:]).astype(np.uint8)
    sample = sample_of(given_grid, output, Augmentation(dihedral, colours), canvas)
    assert sample.in_region
    prediction = Prediction(sample, np.where(sample.labels == IGNORE, PAD, sample.labels), 0.0)
    assert np.array_equal(prediction.grid, output)
    assert prediction.query == ("t", hash_grid(given_grid))


def test_a_canvas_full_of_colour_is_cropped_nowhere() -> None:
    full = np.random.default_rng(0).integers(0, 10, (30, 30)).astype(np.uint8)
    sample = sample_of(full, full[::-1])
    assert np.array_equal(Prediction(sample, sample.labels, 0.0).grid, full[::-1])


def test_more_votes_come_first_then_higher_halting() -> None:
    votes = [
        says(filled(1), 9.0),
        says(filled(2), -3.0),
        says(filled(2), -1.0),
        says(filled(5), -2.0),
        says(filled(5), 2.0),
        says(filled(6), 8.0),
    ]
    ranked = rank(votes)
    assert [int(candidate.grid[0, 0]) for candidate in ranked] == [5, 2, 1, 6]
    assert [candidate.votes for candidate in ranked] == [2, 2, 1, 1]
    assert ranked[0].halting == pytest.approx(0.5)  # the mean of sigmoids, not the sigmoid of the mean


def test_halting_is_a_mean_of_probabilities_not_of_logits() -> None:
    ranked = rank([says(filled(1), 100.0), says(filled(1), -2.0), says(filled(2), 1.0), says(filled(2), 1.0)])
    assert [int(candidate.grid[0, 0]) for candidate in ranked] == [2, 1]
    assert ranked[1].halting == pytest.approx((1 + 1 / (1 + math.exp(2))) / 2)


def test_votes_of_different_augmentations_meet() -> None:
    turned = Augmentation(1, (0, 2, 1, 3, 4, 5, 6, 7, 8, 9))
    answer = np.array([[1, 2, 3], [0, 5, 1]], dtype=np.uint8)
    (group,) = group_by_query([says(answer), says(answer, 0.0, turned)]).values()
    (candidate,) = rank(group)
    assert candidate.votes == 2
    assert np.array_equal(candidate.grid, answer)


@given(st.permutations(range(12)))
def test_the_order_of_the_predictions_never_matters(order: list[int]) -> None:
    votes = [says(filled(colour % 6), 0.1 * (colour % 3)) for colour in range(12)]

    def summary(ranked: tuple[Candidate, ...]) -> list[tuple[str, int, float]]:
        return [(hash_grid(candidate.grid), candidate.votes, candidate.halting) for candidate in ranked]

    assert summary(rank([votes[i] for i in order])) == summary(rank(votes))


def test_a_prediction_without_a_grid_takes_a_place() -> None:
    nothing = replace(says(filled(1)), tokens=np.zeros(36, dtype=np.int64))
    ranked = rank([nothing, nothing, says(filled(2))])
    assert [candidate.grid.shape for candidate in ranked] == [(0, 0), (2, 3)]


@pytest.mark.parametrize(
    ("logit", "share"), [(math.nan, 0.0), (math.inf, 1.0), (-math.inf, 0.0), (-1e4, 0.0), (1e4, 1.0)]
)
def test_any_halting_logit_ranks(logit: float, share: float) -> None:
    assert rank([says(filled(1), logit)])[0].halting == share


def test_equal_inputs_of_two_tasks_are_two_queries() -> None:
    predictions = [
        Prediction(sample, sample.tokens, 0.0)
        for sample in (sample_of(filled(1), filled(2), name="a"), sample_of(filled(1), filled(2), name="b"))
    ]
    assert {key[0] for key in group_by_query(predictions)} == {"a", "b"}


def test_tokens_of_another_length_are_refused() -> None:
    with raises_code(ArgumentError, "evaluate.wrong-shape", (35,), (36,)):
        replace(says(filled(1)), tokens=np.zeros(35, dtype=np.int64))


def test_a_shifted_sample_is_refused() -> None:
    vote = says(filled(1))
    with raises_code(ArgumentError, "evaluate.shifted-sample", (1, 0)):
        _ = replace(vote, sample=replace(vote.sample, translated=(1, 0))).grid
