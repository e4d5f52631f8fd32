"""Grids of a batch, read from its tokens by their positions on the canvas.

Shapes: B samples, S query tokens, N demonstrations, L tokens of a pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from etrm.batch import Batch, Demos
from etrm.config import SIDE
from etrm.symbolic.formula import BLACK, COLOURS
from etrm.symbolic.grids import Grids, one_hot
from etrm.symbolic.solver import Demonstrations
from etrm.symbolic.templates import FIRST_COLOUR, PAD

CELLS = SIDE * SIDE
"""Number of cells of the canvas; the positions of an output begin here."""


@dataclass(frozen=True, eq=False)
class Queries:
    """The queries of a batch.

    Attributes:
        grids: B grids.
        rows: (B, S) int64, the row of each token, counted from the first row of its grid.
        columns: (B, S) int64, the column likewise.
    """

    grids: Grids
    rows: Tensor
    columns: Tensor

    @property
    def region(self) -> tuple[int, int]:
        """Rows and columns that hold every token that is not above or left of its grid."""
        return int(self.rows.max()) + 1, int(self.columns.max()) + 1

    def read(self, canvas: Tensor) -> Tensor:
        """(B, S, 12) chances of the tokens, from those of a canvas (B, rows, columns, 12); PAD above and left of it."""
        batch = torch.arange(len(canvas), device=canvas.device).unsqueeze(1)
        found = canvas[batch, self.rows.clamp(min=0), self.columns.clamp(min=0)]
        before = (self.rows < 0) | (self.columns < 0)
        pad = one_hot(torch.full_like(self.rows, PAD), canvas.shape[-1]).to(canvas.dtype)
        return torch.where(before.unsqueeze(-1), pad, found)


def read_queries(batch: Batch) -> Queries:
    """The query grids of a batch."""
    rows, columns = batch.positions // SIDE, batch.positions % SIDE
    is_colour = _is_colour(batch.inputs)
    rows, columns = rows - _first(rows, is_colour), columns - _first(columns, is_colour)
    return Queries(_grids(batch.inputs, rows, columns, is_colour), rows, columns)


def read_demonstrations(demos: Demos) -> Demonstrations:
    """The grids of demonstrations; an output without tokens has no cells."""
    is_colour = _is_colour(demos.tokens)
    is_output = demos.positions >= CELLS
    place = demos.positions % CELLS
    rows, columns = place // SIDE, place % SIDE
    inputs, outputs = (
        _grids(demos.tokens, rows - _first(rows, here), columns - _first(columns, here), here)
        for here in (is_colour & ~is_output, is_colour & is_output)
    )
    return Demonstrations(inputs, outputs, demos.owner)


def queries_as_demos(batch: Batch) -> Demos:
    """The queries as the inputs of demonstrations without an output: all that the selector ``input`` may know."""
    return Demos(
        tokens=batch.inputs,
        positions=batch.positions,
        valid=batch.valid,
        owner=torch.arange(batch.size, device=batch.inputs.device),
        slots=batch.demos.slots,
        noise=batch.demos.noise,
    )


def _is_colour(tokens: Tensor) -> Tensor:
    return (tokens >= FIRST_COLOUR) & (tokens < FIRST_COLOUR + COLOURS)


def _first(places: Tensor, here: Tensor) -> Tensor:
    """(N, 1), the first row or column of the tokens that are ``here``; grids may be shifted on the canvas."""
    return torch.where(here, places, SIDE).amin(1, keepdim=True)


def _grids(tokens: Tensor, rows: Tensor, columns: Tensor, here: Tensor) -> Grids:
    """Grids of the tokens (N, L) that are ``here``, each at its row and column."""
    heights, widths = (torch.where(here, places, -1).amax(1) + 1 for places in (rows, columns))
    height, width = (max(1, int(sides.max())) for sides in (heights, widths))
    spare = height * width  # a cell behind the canvas, for the tokens that are not cells
    index = torch.where(here, rows * width + columns, spare)
    colours = torch.where(here, tokens - FIRST_COLOUR, BLACK)
    canvas = torch.full((len(tokens), spare + 1), BLACK, dtype=torch.long, device=tokens.device)
    canvas = canvas.scatter(1, index, colours)[:, :spare].view(-1, height, width)
    return Grids(one_hot(canvas, COLOURS).float(), heights, widths)
