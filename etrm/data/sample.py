"""One episode in numpy: a query and its demonstrations as tokens with positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from etrm.config import SIDE, QueryChoice
from etrm.data.augment import Augmentation, name_augmented
from etrm.data.region import Region, find_region, holds
from etrm.data.task import Grid, Pair, Task
from etrm.data.tokens import PAD, Tokens, read_labels, to_canvas

CELLS = SIDE * SIDE
"""The number of cells of the whole canvas. In a demonstration pair, the positions of the output start here."""

_POSITIONS = np.arange(CELLS, dtype=np.int16).reshape(SIDE, SIDE)


@dataclass(frozen=True, eq=False)
class DemoPair:
    """One demonstration: input tokens, then output tokens.

    Attributes:
        tokens: the (L,) tokens.
        positions: the (L,) positions, 30r + c in the input grid, 900 + 30r + c in the output grid.
    """

    tokens: Tokens
    positions: Tokens

    @cached_property
    def cells(self) -> int:
        """The number of different cells, places of either grid."""
        found = np.zeros(CELLS, dtype=bool)
        found[self.positions % CELLS] = True
        return int(np.count_nonzero(found))


@dataclass(frozen=True, eq=False)
class Sample:
    """One episode.

    Attributes:
        task_id: the id of the task.
        name: the task id and the augmentation, see :func:`etrm.data.augment.parse_name`.
        query: the index of the query: first the task's test pairs, then its demonstrations.
        puzzle_id: the row of the puzzle table; 0 for fresh augmentations.
        serial: the number of the episode, from which it can be rebuilt.
        tokens: (S,) the tokens of the query input.
        positions: (S,) the positions on the canvas, 30r + c.
        labels: (S,) the tokens of the query output, IGNORE for tokens that are not scored (all, if it is unknown).
        demos: the demonstrations that are shown.
        region: the rows and columns that the tokens cover, row by row from the top-left.
        side: the side of the canvas.
        in_region: whether the true output fits into the region (True if it is unknown).
        target: the true output under the augmentation; None if it is unknown.
        translated: the shift of the query's grids on the canvas; (0, 0) outside training.
    """

    task_id: str
    name: str
    query: int
    puzzle_id: int
    serial: int
    tokens: Tokens
    positions: Tokens
    labels: Tokens
    demos: tuple[DemoPair, ...]
    region: Region
    side: int
    in_region: bool
    target: Grid | None
    translated: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Query:
    """A query before augmentation.

    Attributes:
        task: the task.
        task_index: the index of the task in its set.
        index: the index of the pair: first the test pairs, then the demonstrations.
        pair: the pair whose output is to be predicted.
        demos: the task's demonstrations without that pair.
    """

    task: Task
    task_index: int
    index: int
    pair: Pair
    demos: tuple[Pair, ...]

    @property
    def left_out(self) -> bool:
        """Whether the query is a demonstration that was left out of the context."""
        return self.index >= len(self.task.tests)

    @cached_property
    def region(self) -> Region:
        """The rows and columns of the region, before augmentation and translation."""
        return find_region(self.demos, self.pair.input)


@dataclass(frozen=True)
class GridLayout:
    """How grids become tokens: the canvas, the number of demonstrations, and the random shift."""

    canvas: str
    max_demos: int
    translate: int = 0


def list_queries(task: Task, task_index: int, asked: QueryChoice = "test") -> tuple[Query, ...]:
    """Return the queries of a task. The demonstrations of a query contain neither its own pair nor a test pair."""
    every = tuple(
        Query(task, task_index, index, pair, tuple(demo for demo in task.demos if demo != pair))
        for index, pair in enumerate(task.tests + task.demos)
    )
    tests = len(task.tests)
    return {"test": every[:tests], "leave_one_out": every[tests:], "all": every}[asked]


def build(
    query: Query,
    augmentation: Augmentation,
    layout: GridLayout,
    rng: np.random.Generator | None = None,
    *,
    serial: int,
    puzzle_id: int = 0,
    augmented: Callable[[Pair], Pair] | None = None,
) -> Sample:
    """Build an episode from a query.

    Args:
        query: the query.
        augmentation: the augmentation of every grid of the episode.
        layout: the layout of grids as tokens.
        rng: the generator of the shifts; None places every grid at the top-left.
        serial: the number of the episode.
        puzzle_id: the row of the puzzle table.
        augmented: a table of augmented pairs; None computes them here.
    """
    augmented = augmented or augmentation.pair
    asked = augmented(query.pair)
    target = asked.output
    height, width = query.region
    area = (width, height) if augmentation.swaps_sides else (height, width)
    shift = _shift(area, layout, rng)
    published = layout.canvas == "published"
    shown = (SIDE, SIDE) if published else (area[0] + shift[0], area[1] + shift[1])
    positions, (tokens, labels) = (
        _POSITIONS[: shown[0], : shown[1]],
        _query_canvases(asked.input, target, shift),
    )
    return Sample(
        task_id=query.task.id,
        name=name_augmented(query.task.id, augmentation),
        query=query.index,
        puzzle_id=puzzle_id,
        serial=serial,
        tokens=tokens[: shown[0], : shown[1]].ravel(),
        positions=positions.ravel(),
        labels=labels[: shown[0], : shown[1]].ravel(),
        demos=_demos([augmented(demo) for demo in query.demos[: layout.max_demos]], layout, rng),
        region=shown,
        side=SIDE,
        in_region=target is None or published or holds(area, target),
        target=target,
        translated=shift,
    )


def _query_canvases(given: Grid, target: Grid | None, shift: tuple[int, int]) -> tuple[Tokens, Tokens]:
    """Return the canvas of the input, and the labels of the part of the output that is on the shifted canvas."""
    tokens = to_canvas(given, SIDE, shift)
    if target is None:
        return tokens, read_labels(np.zeros_like(tokens))
    visible = target[: SIDE - shift[0], : SIDE - shift[1]]
    return tokens, read_labels(to_canvas(visible, SIDE, shift))


def _demos(
    pairs: Sequence[Pair], layout: GridLayout, rng: np.random.Generator | None
) -> tuple[DemoPair, ...]:
    shown = []
    for pair in pairs:
        grids = pair.grids
        extent = (max(grid.shape[0] for grid in grids), max(grid.shape[1] for grid in grids))
        shift = _shift(extent, layout, rng)
        first, second = (to_canvas(grid, SIDE, shift).ravel() for grid in grids)
        shown.append(_demo_pair(first, second, layout))
    return tuple(shown)


def _demo_pair(first: Tokens, second: Tokens, layout: GridLayout) -> DemoPair:
    if layout.canvas == "published":
        return DemoPair(np.concatenate([first, second]), np.arange(2 * CELLS, dtype=np.int16))
    here, there = np.flatnonzero(first != PAD), np.flatnonzero(second != PAD)
    return DemoPair(
        tokens=np.concatenate([first[here], second[there]]),
        positions=np.concatenate([here, there + CELLS]).astype(np.int16),
    )


def _shift(extent: Region, layout: GridLayout, rng: np.random.Generator | None) -> tuple[int, int]:
    """Return a uniformly random shift that keeps ``extent`` on the canvas.

    For a query the extent is its region, which does not depend on the label.
    """
    if rng is None or layout.translate == 0:
        return 0, 0
    rows, columns = (int(rng.integers(min(layout.translate, SIDE - side) + 1)) for side in extent)
    return rows, columns
