"""Demonstrations as queries, to which contexts are fitted: in the inner steps of training, and at test time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from etrm.config import SIDE, DataConfig
from etrm.data.task import Grid, Pair, Task
from etrm.reference.data.canvas import CELLS, COLOUR, PAD, UNCHANGED, UNSCORED, Integers
from etrm.reference.data.loader import AskedPair, Drawing, ReferenceRow, make_row

ShownPair = tuple[Integers, Integers]
"""The (L,) tokens and the (L,) positions of a demonstration."""


@dataclass(frozen=True)
class PosedQueries:
    """The N demonstrations of R rows as queries, padded to S tokens.

    Attributes:
        inputs, positions, labels: (N, S) int64.
        valid: (N, S) bool, None if no token is masked (the published canvas).
        owner: (N,) int64, the row of each, ascending.
    """

    inputs: Tensor
    positions: Tensor
    labels: Tensor
    valid: Tensor | None
    owner: Tensor


def pose(rows: Sequence[Sequence[ShownPair]], data: DataConfig, device: torch.device) -> PosedQueries:
    """Make a query of each demonstration of some rows, whose region follows from the other ones of its row.

    Grids are at the top-left of the canvas, wherever they were shown. A demonstration without another one is posed
    with itself.
    """
    posed = [_pose_row(shown, data) for shown in rows]
    owner = [row for row, found in enumerate(posed) for _ in found]
    return join_queries([query for found in posed for query in found], owner, data, device)


def join_queries(
    queries: Sequence[ReferenceRow], owner: Sequence[int], data: DataConfig, device: torch.device
) -> PosedQueries:
    """Pad queries to the longest of them, each with the row that answers it."""
    longest = max(len(query.tokens) for query in queries)

    def padded(values: Sequence[Integers], fill: int) -> Tensor:
        filled = [np.pad(value, (0, longest - len(value)), constant_values=fill) for value in values]
        return torch.as_tensor(np.stack(filled), dtype=torch.long, device=device)

    lengths = torch.tensor([len(query.tokens) for query in queries], device=device)
    masked = data.canvas != "published"
    return PosedQueries(
        inputs=padded([query.tokens for query in queries], PAD),
        positions=padded([query.positions for query in queries], 0),
        labels=padded([query.labels for query in queries], UNSCORED),
        valid=torch.arange(longest, device=device) < lengths[:, None] if masked else None,
        owner=torch.tensor(owner, device=device),
    )


def _pose_row(shown: Sequence[ShownPair], data: DataConfig) -> list[ReferenceRow]:
    pairs = [_read_pair(tokens, positions) for tokens, positions in shown]
    task = Task("posed", tuple(pairs), ())
    found = []
    for index, pair in enumerate(pairs):
        others = tuple(other for other in pairs if other != pair) or (pair,)
        asked = AskedPair(task, 0, index, pair, others)
        found.append(make_row(Drawing(asked, UNCHANGED, ((0, 0),), 0, 0), data))
    return found


def _read_pair(tokens: Integers, positions: Integers) -> Pair:
    first = positions < CELLS
    return Pair(
        _read_grid(tokens[first], positions[first]), _read_grid(tokens[~first], positions[~first] - CELLS)
    )


def _read_grid(tokens: Integers, places: Integers) -> Grid:
    cells = places[tokens >= COLOUR]
    rows, columns = cells // SIDE, cells % SIDE
    top, left = rows.min(), columns.min()
    grid = np.zeros((rows.max() - top + 1, columns.max() - left + 1), dtype=np.uint8)
    grid[rows - top, columns - left] = tokens[tokens >= COLOUR] - COLOUR
    return grid
