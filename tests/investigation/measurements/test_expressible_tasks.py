"""Tasks with known rules: what a fixed formula expresses, what a guard could, and what search solves."""

from __future__ import annotations

import numpy as np
import pytest

from etrm.config import SymbolicConfig
from etrm.data import Task
from etrm.data.rules import CONDITIONS
from etrm.data.task import Pair
from etrm.investigation.measurements.expressible_tasks import (
    ExpressibleTasks,
    could_guard,
    explains,
    measure_expressible,
)
from etrm.symbolic import parse
from etrm.symbolic.search import Array, Demo


def grids(count: int, side: int = 5) -> list[Array]:
    random = np.random.default_rng(0)
    return [random.integers(0, 4, (side, side)) for _ in range(count)]


def pairs(condition: str) -> list[Demo]:
    """Cells that are not black and meet the condition of the rule family become colour 9."""
    return [(grid, np.where(CONDITIONS[condition](grid) & (grid != 0), 9, grid)) for grid in grids(4)]


def task(made: list[Demo], name: str = "t") -> Task:
    both = [Pair(given.astype(np.uint8), wanted.astype(np.uint8)) for given, wanted in made]
    return Task(name, tuple(both[:3]), tuple(both[3:]))


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_guard_that_sees_the_next_cells_could_make_every_rule_of_the_family(condition: str) -> None:
    assert could_guard(pairs(condition), reach=1)


def test_a_guard_without_neighbours_sees_only_colours() -> None:
    assert not could_guard(pairs("touching"), reach=0)
    by_colour = [(grid, np.where(grid == 2, 9, grid)) for grid in grids(2)]
    assert could_guard(by_colour, reach=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda grid: grid,  # nothing changes
        lambda grid: grid[:-1],  # another size
        lambda grid: np.where(grid == 1, 8, np.where(grid == 2, 9, grid)),  # two colours are painted
        lambda grid: np.where(grid < 2, 9, grid),  # black and another colour change
    ],
)
def test_what_is_no_recolouring_of_one_template_is_none_of_a_guard(change: object) -> None:
    assert callable(change)
    assert not could_guard([(grid, change(grid)) for grid in grids(2)], reach=1)


def test_an_explanation_is_right_in_every_pair() -> None:
    flip = parse("where true paint x.flip_rows")
    right = [(grid, grid[::-1]) for grid in grids(3)]
    assert explains(flip, right)
    assert not explains(flip, [right[0], (right[1][0], right[1][0])])


def test_oracle_and_search_count_tasks_by_what_is_known_of_them() -> None:
    flipped = [(grid, grid[::-1]) for grid in grids(4)]
    misleading = [*flipped[:3], (flipped[3][0], flipped[3][0][:, ::-1])]
    random = [(grid, other) for grid, other in zip(grids(8)[:4], grids(8)[4:], strict=True)]
    tasks = [task(flipped), task(misleading), task(random), task(pairs("touching"))]
    fixed = SymbolicConfig(families=("dihedral", "relational"))
    found = measure_expressible(fixed, tasks, "training", at_most=10)
    assert found == ExpressibleTasks("training", 4, 4, searched_right=2, fixed=2, learned=None, expressed=2)
    assert found.interval == (0.5, 0.5)
    learned = measure_expressible(SymbolicConfig(families=("learned",)), tasks, "training", at_most=10)
    assert (learned.fixed, learned.learned, learned.expressed) == (0, 1, 1)
    assert learned.interval == (0.25, 1.0)


def test_a_part_of_the_tasks_gives_an_interval() -> None:
    flipped = [(grid, grid[::-1]) for grid in grids(4)]
    found = measure_expressible(
        SymbolicConfig(families=("original",)), [task(flipped)] * 9, "held-out", at_most=3
    )
    assert (found.tasks, found.searched, found.share) == (9, 3, 1.0)
    low, high = found.interval
    assert high == 1
    assert low == pytest.approx(0.025 ** (1 / 3))  # Clopper-Pearson, all of three
