"""Demonstrations as queries: what a model can be fitted to at test time, without any answer that is to be predicted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from etrm.config import SIDE
from etrm.data.augment import identity
from etrm.data.sample import CELLS, DemoPair, GridLayout, Query, Sample, build
from etrm.data.task import Grid, Pair, Task
from etrm.data.tokens import FIRST_COLOUR, PAD


def pose_demonstrations(sample: Sample) -> list[Sample]:
    """Make a query of each demonstration that a sample shows; the others are its demonstrations.

    Only ``sample.demos`` is read, never the query of the sample or its labels. Grids are posed at the top-left of the
    canvas. A pair whose task shows no other is posed with itself as demonstration, because without any demonstration
    its region would be the whole canvas.
    """
    pairs = tuple(read_pair(demo) for demo in sample.demos)
    published = bool(sample.demos) and len(sample.demos[0].tokens) == 2 * CELLS
    layout = GridLayout("published" if published else "region", max(1, len(pairs)))
    task = Task(sample.task_id, pairs, ())
    posed = []
    for index, pair in enumerate(pairs):
        others = tuple(other for other in pairs if other != pair)
        query = Query(task, 0, index, pair, others or pairs)
        posed.append(build(query, identity(), layout, serial=sample.serial, puzzle_id=sample.puzzle_id))
    return posed


def read_pair(demo: DemoPair) -> Pair:
    """Return the grids of a demonstration, wherever they are on their canvases."""
    output = demo.positions >= CELLS
    return Pair(
        _read_grid(demo.tokens[~output], demo.positions[~output]),
        _read_grid(demo.tokens[output], demo.positions[output] - CELLS),
    )


def _read_grid(tokens: npt.NDArray[np.integer], positions: npt.NDArray[np.integer]) -> Grid:
    canvas = np.full((SIDE, SIDE), PAD, dtype=np.int16)
    canvas[np.divmod(positions, SIDE)] = tokens
    rows, columns = (np.flatnonzero((canvas >= FIRST_COLOUR).any(axis)) for axis in (1, 0))
    inside = canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return (inside - FIRST_COLOUR).astype(np.uint8)
