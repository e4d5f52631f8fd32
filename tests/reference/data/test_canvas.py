"""Grids as tokens: against examples that are written out, and against the loader's own functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etrm.data import Augmentation, Grid, Pair, find_region, hash_grid, read_grid, to_canvas
from etrm.reference.data.canvas import GridChange, digest_grid, find_area, lay_out, read_answer
from tests.reference.invented import AUGMENTATIONS, GRIDS


def test_a_grid_has_its_end_to_the_right_and_below_without_the_corner() -> None:
    grid = np.array([[0, 1], [9, 2]], dtype=np.uint8)
    assert lay_out(grid)[:4, :4].tolist() == [[2, 3, 1, 0], [11, 4, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]


def test_what_leaves_the_canvas_is_cut_off() -> None:
    canvas = lay_out(np.full((3, 2), 5, dtype=np.uint8), (28, 0))
    assert canvas[27:, :3].tolist() == [[0, 0, 0], [7, 7, 1], [7, 7, 1]]


@pytest.mark.parametrize("turn", range(8))
def test_turns_are_numbered_as_published(turn: int) -> None:
    """`dihedral_transform` of TRM's dataset/common.py."""
    grid = np.arange(6, dtype=np.uint8).reshape(2, 3)
    published = {
        0: [[0, 1, 2], [3, 4, 5]],
        1: [[2, 5], [1, 4], [0, 3]],
        2: [[5, 4, 3], [2, 1, 0]],
        3: [[3, 0], [4, 1], [5, 2]],
        4: [[2, 1, 0], [5, 4, 3]],
        5: [[3, 4, 5], [0, 1, 2]],
        6: [[0, 3], [1, 4], [2, 5]],
        7: [[5, 2], [4, 1], [3, 0]],
    }
    change = GridChange(turn, tuple(range(10)))
    assert change.apply(grid).tolist() == published[turn]
    assert change.exchanges_axes == (change.apply(grid).shape == (3, 2))


@given(GRIDS, AUGMENTATIONS)
def test_augmentations_agree_with_those_of_the_loader(grid: Grid, real: Augmentation) -> None:
    change = GridChange(real.dihedral, real.colours)
    np.testing.assert_array_equal(change.apply(grid), real.apply(grid))
    np.testing.assert_array_equal(change.undo(change.apply(grid)), grid)


@given(GRIDS, st.tuples(st.integers(0, 24), st.integers(0, 24)))
def test_canvases_agree_with_those_of_the_loader(grid: Grid, shift: tuple[int, int]) -> None:
    np.testing.assert_array_equal(lay_out(grid, shift), to_canvas(grid, offset=shift))


@given(st.lists(st.tuples(GRIDS, GRIDS), max_size=3), GRIDS)
def test_regions_agree_with_those_of_the_loader(pairs: list[tuple[Grid, Grid]], query: Grid) -> None:
    demos = [Pair(*pair) for pair in pairs]
    assert find_area(demos, query) == find_region(demos, query)


@given(st.lists(st.lists(st.integers(0, 12), min_size=5, max_size=5), min_size=1, max_size=5))
def test_answers_agree_with_those_of_the_evaluator(rows: list[list[int]]) -> None:
    tokens = np.array(rows)
    np.testing.assert_array_equal(read_answer(tokens), read_grid(tokens))


@given(GRIDS)
def test_the_digest_is_the_hash_of_the_grid(grid: Grid) -> None:
    assert digest_grid(grid) == hash_grid(grid)
