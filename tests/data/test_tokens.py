from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from etrm.batch import IGNORE
from etrm.data.tokens import EOS, PAD, read_grid, read_labels, to_canvas
from etrm.errors import ArgumentError
from tests.errors import raises_code

grids = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=30), elements=st.integers(0, 9))


def brute_force_crop(tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The largest all-colour rectangle from the top-left, fewer rows first."""
    best = tokens[:0, :0]
    for h in range(1, tokens.shape[0] + 1):
        for w in range(1, tokens.shape[1] + 1):
            block = tokens[:h, :w]
            if ((block >= 2) & (block <= 11)).all() and block.size > best.size:
                best = block
    return best - 2


def test_a_grid_has_its_borders_but_no_corner() -> None:
    canvas = to_canvas(np.array([[0, 9]], dtype=np.uint8), side=4, offset=(1, 1))
    np.testing.assert_array_equal(
        canvas, [[PAD] * 4, [PAD, 2, 11, EOS], [PAD, EOS, EOS, PAD], [PAD, PAD, PAD, PAD]]
    )


def test_borders_are_left_out_where_they_do_not_fit() -> None:
    full = to_canvas(np.zeros((3, 3), dtype=np.uint8), side=3)
    np.testing.assert_array_equal(full, np.full((3, 3), 2))
    wide = to_canvas(np.zeros((1, 3), dtype=np.uint8), side=3)
    np.testing.assert_array_equal(wide, [[2, 2, 2], [EOS] * 3, [PAD] * 3])


@pytest.mark.parametrize("offset", [(2, 0), (0, 1), (-1, 0)])
def test_a_grid_off_the_canvas_is_refused(offset: tuple[int, int]) -> None:
    with raises_code(ArgumentError, "data.grid-leaves-canvas", "2x3", offset, "3x3"):
        to_canvas(np.zeros((2, 3), dtype=np.uint8), side=3, offset=offset)


@given(grids)
def test_cropping_inverts_laying_out(grid: npt.NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(read_grid(to_canvas(grid)), grid)


@given(
    arrays(
        np.int64, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.sampled_from([0, 1, 2, 11])
    )
)
def test_cropping_is_the_largest_rectangle_from_the_top_left(tokens: npt.NDArray[np.int64]) -> None:
    np.testing.assert_array_equal(read_grid(tokens), brute_force_crop(tokens))


def test_no_rectangle_gives_an_empty_grid() -> None:
    assert read_grid(np.array([[EOS, 5], [5, 5]])).shape == (0, 0)
    assert read_grid(np.array([[12, 5]])).shape == (0, 0)


@given(grids)
def test_labels_score_colours_and_eos_alone(grid: npt.NDArray[np.uint8]) -> None:
    canvas = to_canvas(grid)
    labels = read_labels(canvas)
    h, w = grid.shape
    assert (labels != IGNORE).sum() == h * w + (w if h < 30 else 0) + (h if w < 30 else 0)
    np.testing.assert_array_equal(labels[canvas != PAD], canvas[canvas != PAD])
    assert PAD not in labels
