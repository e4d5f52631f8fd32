"""Maps against numpy, on grids of different sizes in one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from etrm.symbolic.formula import MAPS
from etrm.symbolic.grids import Grids
from etrm.symbolic.parser import parse
from etrm.symbolic.predicates import Predicates
from etrm.symbolic.semantics import Semantics
from etrm.symbolic.tensor_evaluator import apply_rule
from tests.symbolic import strategies

Array = Any


def painted(text: str, *grids: Array) -> list[Array]:
    return apply_rule(parse(text), Grids.of(grids), Predicates(), Semantics()).arrays()


def moved(grid: Array, down: int, right: int) -> Array:
    """Move a grid cell by cell; cells that nothing moves to are black."""
    made = np.zeros_like(grid)
    for (r, c), _ in np.ndenumerate(grid):
        if 0 <= r + down < grid.shape[0] and 0 <= c + right < grid.shape[1]:
            made[r, c] = grid[r + down, c + right]
    return made


def boxed(grid: Array, wanted: Array) -> Array:
    rows, columns = np.flatnonzero(wanted.any(1)), np.flatnonzero(wanted.any(0))
    return grid[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else grid[:0, :0]


EXPECTED: dict[str, Callable[[Array], Array]] = {
    "identity": lambda g: g,
    "flip_rows": np.flipud,
    "flip_columns": np.fliplr,
    "rotate_180": lambda g: np.rot90(g, 2),
    "rotate_90": lambda g: np.rot90(g, -1),
    "rotate_270": lambda g: np.rot90(g, 1),
    "transpose": lambda g: g.T,
    "antitranspose": lambda g: np.rot90(g, 2).T,
    "left": lambda g: moved(g, 0, -1),
    "right": lambda g: moved(g, 0, 1),
    "up": lambda g: moved(g, -1, 0),
    "down": lambda g: moved(g, 1, 0),
    "offset(1, -2)": lambda g: moved(g, 1, -2),
    "wrap(1, -2)": lambda g: np.roll(g, (-1, 2), (0, 1)),
    "tile(2, 3)": lambda g: np.tile(g, (2, 3)),
    "mirror(2, 2)": lambda g: np.block([[g, np.fliplr(g)], [np.flipud(g), np.rot90(g, 2)]]),
    "scale(3, 2)": lambda g: np.kron(g, np.ones((3, 2), dtype=int)),
    "shrink(2, 3)": lambda g: g[::2, ::3],
    "part(0, 1, 1, 2)": lambda g: g[:, g.shape[1] - g.shape[1] // 2 :],
    "crop": lambda g: boxed(g, g != 0),
    "crop_to(2)": lambda g: boxed(g, g == 2),
}


def test_every_map_is_tested() -> None:
    assert {text.partition("(")[0] for text in EXPECTED} == set(MAPS)


@settings(deadline=None, max_examples=30)
@given(strategies.arrays(5), strategies.arrays(5))
@pytest.mark.parametrize("text", EXPECTED)
def test_maps(text: str, first: Array, second: Array) -> None:
    for found, grid in zip(
        painted(f"where true paint x.{text}", first, second), (first, second), strict=True
    ):
        expected = EXPECTED[text](grid)
        assert found.shape == expected.shape
        assert (found == expected).all()


def test_parts_leave_out_the_lines_between_them() -> None:
    grid = np.arange(11)[None] % 10
    thirds = [painted(f"where true paint x.part(0, 1, {n}, 3)", grid)[0][0].tolist() for n in range(3)]
    assert thirds == [[0, 1, 2], [4, 5, 6], [8, 9, 0]]


def test_only_cells_where_the_guard_holds_are_painted() -> None:
    (found,) = painted("where colour(x, 1) paint x.right", np.array([[1, 2, 3], [4, 1, 1]]))
    assert found.tolist() == [[2, 2, 3], [4, 1, 0]]


def test_then_reads_what_was_made_and_also_reads_the_grid_itself() -> None:
    grid = np.array([[1, 2]])
    swap = "where colour(x, 1) paint 2 {} where colour(x, 2) paint 1"
    assert painted(swap.format("then"), grid)[0].tolist() == [[1, 1]]
    assert painted(swap.format("also"), grid)[0].tolist() == [[2, 1]]


def test_the_size_comes_from_the_rule() -> None:
    rule = "where true paint x.crop then where true paint x.tile(1, 2) then where edge(x) paint 5"
    (found,) = painted(rule, np.array([[0, 0, 0, 0], [0, 3, 3, 0], [0, 3, 3, 0], [0, 3, 3, 0], [0, 0, 0, 0]]))
    assert found.tolist() == [[5, 5, 5, 5], [5, 3, 3, 5], [5, 5, 5, 5]]
