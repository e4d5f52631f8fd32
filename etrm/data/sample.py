"""One episode in numpy: a query and its demonstrations, laid out as tokens with their places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from etrm.config import SIDE, Asked
from etrm.data.augment import Augmentation, name_augmented
from etrm.data.region import Region, find_region, holds
from etrm.data.task import Grid, Pair, Task
from etrm.data.tokens import PAD, Tokens, read_labels, to_canvas

CELLS = SIDE * SIDE
"""Cells of the whole canvas; an output's positions start here in a demonstration pair."""

_POSITIONS = np.arange(CELLS, dtype=np.int16).reshape(SIDE, SIDE)


@dataclass(frozen=True, eq=False)
class DemoPair:
    """One demonstration: input tokens then output tokens.

    Attributes:
        tokens: (L,) tokens.
        positions: (L,) 30r + c in the input grid, 900 + 30r + c in the output grid.
    """

    tokens: Tokens
    positions: Tokens


@dataclass(frozen=True, eq=False)
class Sample:
    """One episode.

    Attributes:
        task_id: the task.
        name: task id and augmentation, see :func:`etrm.data.augment.parse_name`.
        query: index among the task's tests, then its demonstrations.
        puzzle_id: row of the puzzle table; 0 under fresh augmentations.
        serial: number of the episode, from which the same one can be drawn again.
        tokens: (S,) query input.
        positions: (S,) 30r + c on the canvas.
        labels: (S,) query output, IGNORE where not scored; all of it where the output is unknown.
        demos: the demonstrations shown.
        region: rows and columns that the tokens cover, row by row from the top-left.
        side: side of the canvas.
        in_region: whether the true output lies inside (True where it is unknown).
        target: the true output under the augmentation, None where unknown.
        translated: shift of the query's grids on the canvas; (0, 0) outside training.
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
    """What is asked, before augmentation.

    Attributes:
        task: the task.
        task_index: its place in the set.
        index: the pair's index, tests first and then demonstrations.
        pair: the pair whose output is asked for.
        demos: the task's demonstrations without that pair.
    """

    task: Task
    task_index: int
    index: int
    pair: Pair
    demos: tuple[Pair, ...]

    @property
    def left_out(self) -> bool:
        """Whether a demonstration is asked for, given the others."""
        return self.index >= len(self.task.tests)

    @cached_property
    def region(self) -> Region:
        """Rows and columns, before augmentation and translation."""
        return find_region(self.demos, self.pair.input)


@dataclass(frozen=True)
class GridLayout:
    """How grids become tokens: the canvas, the demos shown, and the random shift, if any."""

    canvas: str
    max_demos: int
    translate: int = 0


def list_queries(task: Task, task_index: int, asked: Asked = "test") -> tuple[Query, ...]:
    """The queries of a task; none has its own pair, by content, or a test pair among its demonstrations."""
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
    """Lay an episode out.

    Args:
        query: what is asked.
        augmentation: applied to every grid of the episode.
        layout: how.
        rng: draws the shifts; None lays every grid at the top-left.
        serial: provenance.
        puzzle_id: row of the puzzle table.
        augmented: looks augmented pairs up; None makes them here.
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
    """Canvas of the input, and labels of the output as far as it lies on the shifted canvas."""
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
    """A uniform shift that keeps ``extent`` on the canvas.

    For a query the extent is its region, which the label has no part in.
    """
    if rng is None or layout.translate == 0:
        return 0, 0
    rows, columns = (int(rng.integers(min(layout.translate, SIDE - side) + 1)) for side in extent)
    return rows, columns
