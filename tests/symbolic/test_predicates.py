"""The fixed predicates against definitions written once more with loops and sets; the learned ones as modules."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from etrm.config import SymbolicConfig
from etrm.symbolic import tensor_evaluator
from etrm.symbolic.formula import LARGEST_COUNT, PREDICATES
from etrm.symbolic.grids import Grids
from etrm.symbolic.parser import parse_formula
from etrm.symbolic.predicates import FIXED, LearnedGuards, Predicates
from etrm.symbolic.semantics import Semantics
from tests.symbolic import strategies

Place = tuple[int, int]
Array = Any


def truth(text: str, *grids: Array, variables: tuple[str, ...] = ("x",)) -> Tensor:
    return tensor_evaluator.evaluate_formula(
        parse_formula(text), Grids.of(grids), Predicates(), Semantics(), variables
    )


def picture(text: str, grid: Array) -> list[str]:
    """Where a guard holds in one grid, as rows of # and dots."""
    shape = np.array(grid).shape
    return ["".join("#" if held else "." for held in row) for row in truth(text, grid).view(shape).tolist()]


def neighbours(grid: Array, place: Place) -> list[Place]:
    row, column = place
    near = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    return [(r, c) for r, c in near if 0 <= r < grid.shape[0] and 0 <= c < grid.shape[1]]


def component(grid: Array, place: Place) -> set[Place]:
    """By flooding."""
    found, border = {place}, [place]
    while border:
        for near in neighbours(grid, border.pop()):
            if near not in found and grid[near] == grid[place]:
                found.add(near)
                border.append(near)
    return found


def on_edge(grid: Array, place: Place) -> bool:
    return len(neighbours(grid, place)) < 4


def expected(grid: Array) -> dict[str, set[Place]]:
    """The cells that each predicate of one cell holds for."""
    cells = list(product(*map(range, grid.shape)))
    parts = {place: component(grid, place) for place in cells}
    coloured = {place: len(part) for place, part in parts.items() if grid[place]}
    counts = Counter(grid[place] for place in coloured)
    ends = ((0, grid.shape[0] - 1), (0, grid.shape[1] - 1))
    return {
        "edge": {place for place in cells if on_edge(grid, place)},
        "inner": {place for place in cells if not on_edge(grid, place)},
        "corner": {place for place in cells if place[0] in ends[0] and place[1] in ends[1]},
        "enclosed": {
            place
            for place in cells
            if not grid[place] and not any(on_edge(grid, other) for other in parts[place])
        },
        "largest": {place for place, size in coloured.items() if size == max(coloured.values())},
        "smallest": {place for place, size in coloured.items() if size == min(coloured.values())},
        "majority": {place for place in coloured if counts[grid[place]] == max(counts.values())},
        "minority": {place for place in coloured if counts[grid[place]] == min(counts.values())},
    }


@settings(deadline=None)
@given(strategies.arrays(6), strategies.arrays(6))
def test_predicates_of_one_cell(first: Array, second: Array) -> None:
    """Of two grids in one batch, so that the smaller one has cells around it that do not exist."""
    grids = Grids.of([first, second])
    for name in expected(first):
        truths = truth(f"{name}(x)", first, second).view(grids.mask.shape)
        for found, grid in zip(truths, (first, second), strict=True):
            assert set(map(tuple, found.nonzero().tolist())) == expected(grid)[name], name


@settings(deadline=None)
@given(strategies.arrays(5))
def test_sizes_of_components(grid: Array) -> None:
    for number in (0, 1, 2, 5):
        found = truth(f"size(x, {number})", grid).view(grid.shape).tolist()
        wanted = [
            [len(component(grid, (r, c))) == number for c in range(grid.shape[1])]
            for r in range(grid.shape[0])
        ]
        assert found == wanted


def test_sizes_beyond_the_largest_count_are_one() -> None:
    assert truth(f"size(x, {LARGEST_COUNT})", np.zeros((6, 6))).all()


@settings(deadline=None, max_examples=50)
@given(strategies.arrays(4))
def test_relations(grid: Array) -> None:
    cells = list(product(*map(range, grid.shape)))

    def line(x: Place, y: Place) -> list[Place]:
        """The cells strictly between two of one row or column."""
        rows, columns = sorted((x[0], y[0])), sorted((x[1], y[1]))
        if x[0] == y[0]:
            return [(x[0], c) for c in range(columns[0] + 1, columns[1])]
        return [(r, x[1]) for r in range(rows[0] + 1, rows[1])]

    def aligned(x: Place, y: Place) -> bool:
        return x != y and (x[0] == y[0] or x[1] == y[1])

    relations = {
        "touching": lambda x, y: y in neighbours(grid, x),
        "same_colour": lambda x, y: grid[x] == grid[y],
        "same_row": lambda x, y: x != y and x[0] == y[0],
        "same_column": lambda x, y: x != y and x[1] == y[1],
        "left_of": lambda x, y: x[0] == y[0] and x[1] < y[1],
        "above": lambda x, y: x[1] == y[1] and x[0] < y[0],
        "ray": lambda x, y: aligned(x, y) and not any(grid[place] for place in line(x, y)),
    }
    for name, holds in relations.items():
        found = truth(f"{name}(x, y)", grid, variables=("x", "y"))[0].tolist()
        assert found == [[holds(x, y) for y in cells] for x in cells], name
    found = truth("between(x, y, z)", grid, variables=("x", "y", "z"))[0].tolist()
    assert found == [[[aligned(y, z) and x in line(y, z) for z in cells] for y in cells] for x in cells]


def test_outside_of_the_grid_cells_are_black_and_nothing_else() -> None:
    grid = np.array([[1, 1, 2]])
    assert picture("colour(x.left, 0)", grid) == ["#.."]
    assert picture("same_colour(x, x.left)", grid) == [".#."]
    assert picture("edge(x.left)", grid) == [".##"]
    assert picture("size(x.left, 0)", grid) == ["..."]
    assert picture("exists y: touching(x.left, y)", grid) == [".##"]


def test_a_spiral_is_one_component() -> None:
    spiral = np.array(
        [
            [1, 1, 1, 1, 1, 1, 1],
            [0, 0, 0, 0, 0, 0, 1],
            [1, 1, 1, 1, 1, 0, 1],
            [1, 0, 0, 0, 1, 0, 1],
            [1, 0, 1, 1, 1, 0, 1],
            [1, 0, 0, 0, 0, 0, 1],
            [1, 1, 1, 1, 1, 1, 1],
        ]
    )
    parts = Grids.of([spiral]).components[0]
    assert len(parts.unique()) == 2
    assert not Grids.of([spiral]).enclosed.any()


def test_every_predicate_of_the_language_has_a_meaning() -> None:
    assert set(FIXED) | {"true", "learned", "related"} == set(PREDICATES)


def test_same_colour_of_distributions_is_the_chance_of_equal_draws() -> None:
    colours = torch.rand(1, 1, 2, 10, dtype=torch.float64).softmax(-1)
    grids = Grids(colours, torch.tensor([1]), torch.tensor([2]))
    found = tensor_evaluator.evaluate_formula(
        parse_formula("same_colour(x, x.right)"), grids, Predicates(), Semantics()
    )
    chance = sum(float(colours[0, 0, 0, c] * colours[0, 0, 1, c]) for c in range(10))
    assert found[0, 0].item() == pytest.approx(chance)


def test_learned_predicates_are_registered() -> None:
    config = SymbolicConfig(families=("original", "learned"), guards=3, width=4)
    names = {name.partition(".")[0] for name, _ in Predicates(config).named_parameters()}
    assert names == {"guards", "pairs"}
    assert not list(Predicates(SymbolicConfig()).parameters())


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_a_learned_guard_sees_as_far_as_its_reach(reach: int) -> None:
    torch.manual_seed(0)
    guards = LearnedGuards(2, 8, reach)
    predicates = Predicates(SymbolicConfig(families=("learned",), guards=2, width=8, reach=reach))
    predicates.guards = guards
    before = np.zeros((7, 7), dtype=int)
    after = before.copy()
    after[3, 3] = 4
    found = [
        tensor_evaluator.evaluate_formula(
            parse_formula("learned(x, 1)"), Grids.of([grid]), predicates, Semantics()
        ).view(7, 7)
        for grid in (before, after)
    ]
    changed = (found[0] != found[1]).nonzero()
    assert (changed - 3).abs().max() == reach
    assert len(changed) == (2 * reach + 1) ** 2


def test_a_learned_pair_knows_the_offset_and_both_colours() -> None:
    predicates = strategies.predicates()
    grid = np.array([[1, 2, 1, 2]])
    grids = Grids.of([grid], torch.float64)
    found = tensor_evaluator.evaluate_formula(
        parse_formula("related(x, y, 0)"), grids, predicates, Semantics(), ("x", "y")
    )[0]
    assert found[0, 1] == found[2, 3]  # one to the right, from 1 to 2
    distinct = {round(value, 9) for value in found.flatten().tolist()}
    assert len(distinct) == 2 + 2 + 2 + 2 + 2 + 1 + 1
