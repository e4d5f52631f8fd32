"""The active region of a query: the part of the canvas in which its answer is expected.

The rule uses only what is known at test time: the demonstrations and the query input, never the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil

from etrm.config import SIDE
from etrm.data.task import Grid, Pair

Region = tuple[int, int]
"""The numbers of rows and columns, counted from the top-left of the canvas."""


def find_region(demos: Sequence[Pair], query_input: Grid) -> Region:
    """Return the rows and columns that contain the query input and, judging by the demonstrations, its output.

    The extent along each axis is the largest of: the extents of all demonstration grids, that of the query input, and
    that of the query input scaled by the largest output/input ratio of the demonstrations; plus one for EOS. Without
    demonstrations nothing is known about the output, so the region is the whole canvas.
    """
    if not demos:
        return SIDE, SIDE
    return _extent(demos, query_input, 0), _extent(demos, query_input, 1)


def holds(area: Region, grid: Grid) -> bool:
    """Return whether a grid at the top-left of the canvas fits into the region."""
    return bool(grid.shape[0] <= area[0] and grid.shape[1] <= area[1])


def _extent(demos: Sequence[Pair], query_input: Grid, axis: int) -> int:
    sides = [
        (int(demo.input.shape[axis]), int(demo.output.shape[axis]))
        for demo in demos
        if demo.output is not None
    ]
    ratio = max(Fraction(output, given) for given, output in sides)
    query = int(query_input.shape[axis])
    return min(SIDE, 1 + max(query, ceil(ratio * query), *(side for pair in sides for side in pair)))
