"""Grids as tokens, by the specification: augmentation, canvas, labels, region and demonstration pairs.

Nothing is shared with the loader (``etrm.data``), which the reference checks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from etrm.config import SIDE
from etrm.data.task import Grid, Pair

PAD, END, COLOUR = 0, 1, 2
"""Tokens of the specification: padding, the end of a row or column, and colour 0, which the other colours follow."""
UNSCORED = -100
"""The label of a token that is not scored."""
CELLS = SIDE * SIDE
"""Cells of the canvas; the positions of a demonstration's output begin here."""

T = TypeVar("T", bound=np.generic)
Integers: TypeAlias = npt.NDArray[np.integer]


@dataclass(frozen=True)
class GridChange:
    """An augmentation.

    Attributes:
        turn: one of the 8 turns: 0 to 3 quarter turns counter-clockwise, then mirrored left to right, mirrored top to
            bottom, transposed, and mirrored left to right after a quarter turn, as numbered in the published TRM code.
        colours: the new colour of each colour.
    """

    turn: int
    colours: tuple[int, ...]

    def name(self, task_id: str) -> str:
        """The name of a task under this augmentation."""
        return f"{task_id}|||t{self.turn}|||{''.join(str(colour) for colour in self.colours)}"

    def apply(self, grid: Grid) -> Grid:
        """Return the augmented grid."""
        return turn_grid(np.array(self.colours)[grid].astype(np.uint8), self.turn)

    def undo(self, grid: Grid) -> Grid:
        """Return the grid that :meth:`apply` turns into this one."""
        backwards = {new: old for old, new in enumerate(self.colours)}
        recoloured = np.array([backwards[colour] for colour in range(len(backwards))])[grid].astype(np.uint8)
        # Two quarter turns apart, each turn is its own inverse; the quarter turns are inverse to one another.
        return turn_grid(recoloured, {1: 3, 3: 1}.get(self.turn, self.turn))

    @property
    def exchanges_axes(self) -> bool:
        """Whether rows become columns."""
        return self.turn in (1, 3, 6, 7)


UNCHANGED = GridChange(0, tuple(range(10)))


def read_change(name: str) -> GridChange:
    """Return the augmentation of a :meth:`GridChange.name`; a task id alone means that nothing is changed.

    Raises:
        ValueError: the name has another form.
    """
    if "|||" not in name:
        return UNCHANGED
    _, turn, colours = name.rsplit("|||", 2)
    return GridChange(int(turn.removeprefix("t")), tuple(int(digit) for digit in colours))


def turn_grid(grid: npt.NDArray[T], turn: int) -> npt.NDArray[T]:
    """Return a grid under one of the 8 turns, see :class:`GridChange`."""
    if turn < 4:
        return np.rot90(grid, turn)
    mirrored = {4: grid[:, ::-1], 5: grid[::-1], 6: grid.T, 7: np.rot90(grid)[:, ::-1]}
    return mirrored[turn]


def lay_out(grid: Grid | None, shift: tuple[int, int] = (0, 0)) -> Integers:
    """Return the (30, 30) tokens of a grid with its first cell at ``shift``; what leaves the canvas is cut off.

    The row below the grid and the column to its right are END as far as they are on the canvas, without the corner.
    """
    canvas = np.full((SIDE, SIDE), PAD, dtype=np.int64)
    if grid is None:
        return canvas
    top, left = shift
    rows, columns = min(grid.shape[0], SIDE - top), min(grid.shape[1], SIDE - left)
    canvas[top : top + rows, left : left + columns] = grid[:rows, :columns].astype(np.int64) + COLOUR
    if top + rows < SIDE:
        canvas[top + rows, left : left + columns] = END
    if left + columns < SIDE:
        canvas[top : top + rows, left + columns] = END
    return canvas


def find_area(demos: Sequence[Pair], query: Grid) -> tuple[int, int]:
    """Return the rows and columns of the region of a query, see "region" in the description of the canvas.

    Without demonstrations nothing is known of the output, and the region is the whole canvas.
    """
    if not demos:
        return SIDE, SIDE
    area = []
    for axis in (0, 1):
        length = query.shape[axis]
        sides = [
            (pair.input.shape[axis], pair.output.shape[axis]) for pair in demos if pair.output is not None
        ]
        scaled = [
            -(-length * after // before) for before, after in sides
        ]  # rounded up, without rounding errors
        area.append(min(SIDE, 1 + max(length, *scaled, *(side for pair in sides for side in pair))))
    return area[0], area[1]


def read_answer(tokens: Integers) -> Grid:
    """Return the largest rectangle of colours at the top-left of a (rows, columns) canvas; of equals, the flattest.

    Its shape is (0, 0) if the first token is no colour.
    """
    rows, columns = tokens.shape
    best, width = (0, 0), columns
    for height in range(1, rows + 1):
        row = tokens[height - 1]
        width = next((column for column in range(width) if not COLOUR <= row[column] < COLOUR + 10), width)
        if height * width > best[0] * best[1]:
            best = (height, width)
    return (tokens[: best[0], : best[1]] - COLOUR).astype(np.uint8)


def digest_grid(grid: Grid) -> str:
    """The SHA-256 of a grid's shape and colours, in hexadecimal digits: the last tie rule of votes."""
    return hashlib.sha256(
        f"{grid.shape[0]}x{grid.shape[1]}:".encode() + bytes(grid.ravel().tolist())
    ).hexdigest()
