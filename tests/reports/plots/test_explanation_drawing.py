"""Pictures of explained answers: their size follows what they show, and the same data gives the same bytes."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from etrm.data import Grid, Pair, Task
from etrm.symbolic import parse
from etrm.symbolic.rated_rules import RatedRule
from etrm.training.scoring.explain_run import ExplainedQuery, ExplainedTask
from reports.plots.explanation_drawing import draw_png

SIDE = 10


def explained(demos: int, rule: str = "where colour(x, 1) paint 2", guard: bool = True) -> ExplainedTask:
    grid: Grid = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 10
    truth = (grid == 1).astype(float) if guard else None
    rated = RatedRule(parse(rule), 0.5, (1.0,) * demos, np.where(grid == 1, 2, grid), truth)
    query = ExplainedQuery(Pair(grid, grid), (rated,))
    task = Task("a", (Pair(grid, grid),) * demos, (query.pair,))
    return ExplainedTask(task, 3, False, 7, (query,))


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header of a PNG."""
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_many_demonstrations_take_more_rows_and_no_more_width() -> None:
    (few, low), (many, high) = size_of(draw_png(explained(2))), size_of(draw_png(explained(10)))
    assert few == many
    assert high > 2 * low


def test_a_guard_is_one_more_grid() -> None:
    with_guard, without = draw_png(explained(1)), draw_png(explained(1, guard=False))
    assert size_of(with_guard)[0] > size_of(without)[0]


def test_a_rule_that_paints_everywhere_has_no_guard() -> None:
    assert explained(1, "where true paint x.flip_rows").queries[0].guard is None
    assert explained(1).queries[0].guard is not None


@pytest.mark.parametrize("terms", [1, 12])
def test_a_long_formula_is_wrapped(terms: int) -> None:
    rule = " also ".join(f"where colour(x, {n % 9}) paint {n % 9 + 1}" for n in range(terms))
    assert size_of(draw_png(explained(2, rule)))[0] == size_of(draw_png(explained(2)))[0]


def test_the_same_answer_gives_the_same_bytes() -> None:
    assert draw_png(explained(3)) == draw_png(explained(3))
