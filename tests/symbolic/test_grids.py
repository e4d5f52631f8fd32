"""Grids are read from arrays of colours, and from nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from etrm.errors import ArgumentError
from etrm.symbolic.grids import Grids
from tests.errors import raises_code


def test_grids_of_several_sizes_are_read_back() -> None:
    grids = [np.array([[1, 2, 3]]), np.array([[4], [9]]), np.zeros((0, 2), dtype=int)]
    for found, grid in zip(Grids.of(grids).arrays(), grids, strict=True):
        np.testing.assert_array_equal(found, grid)


@pytest.mark.parametrize(
    ("grid", "value"),
    [([[0, 10]], 10), ([[-1, 0]], -1), ([[0.0, 0.5]], "float64"), ([1, 2], "(2,)"), ([[[1]]], "(1, 1, 1)")],
)
def test_what_is_no_grid_of_colours_is_refused(grid: Any, value: object) -> None:
    with raises_code(ArgumentError, "symbolic.not-a-grid", value):
        Grids.of([grid])
