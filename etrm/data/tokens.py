"""Convert grids to tokens on a canvas, and back.

PAD fills the canvas. EOS marks the row below a grid and the column to its right (without the corner), if they are on
the canvas. Colour k is the token k + 2.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from etrm.batch import IGNORE
from etrm.config import SIDE
from etrm.data.task import COLOURS, Grid
from etrm.errors import ArgumentError

PAD = 0  # the three numbers are those of the published TRM code
EOS = 1  # likewise
FIRST_COLOUR = 2  # likewise
VOCAB = FIRST_COLOUR + COLOURS

Tokens: TypeAlias = npt.NDArray[np.int16]
"""An array of tokens, positions or labels. Collation converts it to int64."""


def to_canvas(grid: Grid, side: int = SIDE, offset: tuple[int, int] = (0, 0)) -> Tokens:
    """Return a (side, side) canvas with a grid whose first cell is at ``offset``."""
    top, left = offset
    bottom, right = top + grid.shape[0], left + grid.shape[1]
    if min(offset) < 0 or bottom > side or right > side:
        raise ArgumentError(
            "data.grid-leaves-canvas",
            f"a {grid.shape[0]}x{grid.shape[1]} grid at {offset} does not fit on the {side}x{side} canvas",
        )
    canvas = np.full((side, side), PAD, dtype=np.int16)
    canvas[top:bottom, left:right] = grid.astype(np.int16) + FIRST_COLOUR
    canvas[bottom : bottom + 1, left:right] = EOS
    canvas[top:bottom, right : right + 1] = EOS
    return canvas


def read_labels(canvas: Tokens) -> Tokens:
    """Return the labels of a canvas: colours and EOS are scored, PAD is not."""
    return np.where(canvas == PAD, np.int16(IGNORE), canvas)


def read_grid(tokens: npt.NDArray[np.integer]) -> Grid:
    """Return the grid on a canvas by the published crop rule: the largest rectangle of colours at the top-left.

    This inverts :func:`to_canvas` at offset (0, 0). Of rectangles with equal areas, the one with fewer rows is used.

    Args:
        tokens: the (h, w) predicted tokens.

    Returns:
        The grid of colours; its shape is (0, 0) if the first token is not a colour.
    """
    colour = (tokens >= FIRST_COLOUR) & (tokens < VOCAB)
    run = np.where(colour.all(axis=1), tokens.shape[1], np.argmin(colour, axis=1))
    widths = np.minimum.accumulate(run)
    areas = widths * np.arange(1, len(widths) + 1)
    best = int(np.argmax(areas))
    if areas[best] == 0:
        return np.zeros((0, 0), dtype=np.uint8)
    return (tokens[: best + 1, : widths[best]] - FIRST_COLOUR).astype(np.uint8)
