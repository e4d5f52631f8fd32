"""Grids as distributions over colours, and the cells on which predicates are evaluated.

Shapes: B grids, H rows and W columns of the largest one, C = 10 colours, S any shape of cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etrm.device import to_host
from etrm.errors import ArgumentError
from etrm.symbolic.formula import BLACK, COLOURS


def one_hot(values: Tensor, count: int) -> Tensor:
    """(..., count) bool of integers (...); torch's own function cannot run on the simulated GPU of the tests."""
    return values.unsqueeze(-1) == torch.arange(count, device=values.device)


@dataclass(frozen=True, eq=False)
class Grids:
    """A batch of grids, each at the top-left of a canvas that holds the largest.

    Attributes:
        colours: (B, H, W, C) distribution over colours of every cell; black outside of a grid.
        heights: (B,) int64 rows of each grid.
        widths: (B,) int64 columns of each grid.
    """

    colours: Tensor
    heights: Tensor
    widths: Tensor

    @classmethod
    def of(cls, grids: Sequence[Any], dtype: torch.dtype = torch.float32) -> Grids:
        """Grids from arrays of colours, each (rows, columns) of integers.

        Raises:
            ArgumentError: one of them is no such array, or has a number that is no colour.
        """
        arrays = [_read_colours(grid) for grid in grids]
        height, width = (max(1, *(array.shape[axis] for array in arrays), 1) for axis in (0, 1))
        canvas = torch.full((len(arrays), height, width), BLACK, dtype=torch.long)
        for row, array in zip(canvas, arrays, strict=True):
            row[: array.shape[0], : array.shape[1]] = torch.from_numpy(array)
        heights, widths = (torch.tensor([array.shape[axis] for array in arrays]) for axis in (0, 1))
        return cls(one_hot(canvas, COLOURS).to(dtype), heights, widths)

    @classmethod
    def black(cls, shape: tuple[int, int], like: Grids, heights: Tensor, widths: Tensor) -> Grids:
        """Black grids of other sizes, on a canvas of ``shape``."""
        colours = like.colours.new_zeros((like.size, *shape, COLOURS))
        colours[..., BLACK] = 1
        return cls(colours, heights, widths)

    @property
    def size(self) -> int:
        """Number of grids B."""
        return self.colours.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the canvas."""
        return self.colours.shape[1], self.colours.shape[2]

    @cached_property
    def mask(self) -> Tensor:
        """(B, H, W) bool, cells that exist."""
        height, width = self.shape
        rows, columns = (torch.arange(side, device=self.colours.device) for side in (height, width))
        return (rows[:, None] < self.heights[:, None, None]) & (columns < self.widths[:, None, None])

    @cached_property
    def hard(self) -> Tensor:
        """(B, H, W) int64, the likeliest colour of every cell; no gradient passes it."""
        return self.colours.detach().argmax(-1)

    def arrays(self) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
        """The likeliest grids, each (rows, columns) of colours."""
        sizes = zip(self.heights.tolist(), self.widths.tolist(), strict=True)
        return [
            grid[:height, :width].numpy().astype(np.uint8)
            for grid, (height, width) in zip(to_host(self.hard), sizes, strict=True)
        ]

    def select(self, index: int) -> Grids:
        """One grid alone, on a canvas of its own size."""
        height, width = (max(1, int(sides[index])) for sides in (self.heights, self.widths))
        rows = slice(index, index + 1)
        return Grids(self.colours[rows, :height, :width], self.heights[rows], self.widths[rows])

    @cached_property
    def components(self) -> Tensor:
        """(B, H, W) int64, equal in cells of one colour that a path of touching cells connects; -1 outside."""
        return label_components(self.hard, self.mask)

    @cached_property
    def component_sizes(self) -> Tensor:
        """(B, H, W) int64, number of cells of each cell's component; 0 outside."""
        labels = self.components.flatten(1)
        counts = torch.zeros_like(labels).scatter_add_(1, labels.clamp(min=0), (labels >= 0).long())
        return counts.gather(1, labels.clamp(min=0)).view_as(self.hard) * self.mask

    @cached_property
    def enclosed(self) -> Tensor:
        """(B, H, W) bool, black cells whose component does not reach the edge of the grid."""
        labels = self.components.flatten(1).clamp(min=0)
        reached = torch.zeros_like(labels).scatter_add_(1, labels, (self.edge & self.mask).flatten(1).long())
        return (reached.gather(1, labels).view_as(self.hard) == 0) & (self.hard == BLACK) & self.mask

    @cached_property
    def edge(self) -> Tensor:
        """(B, H, W) bool, cells in the first or last row or column of their grid."""
        height, width = self.shape
        rows, columns = (torch.arange(side, device=self.colours.device) for side in (height, width))
        last_row, last_column = self.heights[:, None, None] - 1, self.widths[:, None, None] - 1
        rows = rows[:, None]
        return ((rows == 0) | (rows == last_row) | (columns == 0) | (columns == last_column)) & self.mask

    @cached_property
    def colour_counts(self) -> Tensor:
        """(B, C) int64, cells of each colour."""
        colours = torch.arange(COLOURS, device=self.hard.device)
        return ((self.hard[..., None] == colours) & self.mask[..., None]).sum((1, 2))

    @cached_property
    def painted_before(self) -> tuple[Tensor, Tensor]:
        """(B, H, W) int64 twice: cells that are not black, up to each one in its row and in its column."""
        painted = ((self.hard != BLACK) & self.mask).long()
        return painted.cumsum(2), painted.cumsum(1)


def _read_colours(grid: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    found = np.asarray(grid)
    if found.ndim != 2 or not np.isin(found, range(COLOURS)).all():
        ends = f", from {found.min()} to {found.max()}" if found.size else ""
        raise ArgumentError(
            "symbolic.not-a-grid",
            f"a grid has rows of colours, from 0 to {COLOURS - 1}; got {found.dtype} of shape {found.shape}{ends}",
        )
    return found.astype(np.int64)


def label_components(colours: Tensor, mask: Tensor) -> Tensor:
    """Labels of the components of equal neighbours (left, right, above, below).

    Args:
        colours: (B, H, W) int64.
        mask: (B, H, W) bool, cells that exist.

    Returns:
        (B, H, W) int64: the highest index of a cell of the component, row by row; -1 outside of the mask.
    """
    batch, height, width = colours.shape
    start = torch.arange(height * width, device=colours.device).view(height, width).expand(batch, -1, -1)
    labels = torch.where(mask, start, -1)
    joined = []
    for axis in (1, 2):
        length = colours.shape[axis] - 1
        a, b = (axis, 0, length), (axis, 1, length)
        joined.append((colours.narrow(*a) == colours.narrow(*b)) & mask.narrow(*a) & mask.narrow(*b))
    while True:
        before = labels
        labels = labels.clone()
        for axis, joins in zip((1, 2), joined, strict=True):
            length = colours.shape[axis] - 1
            first, second = labels.narrow(axis, 0, length), labels.narrow(axis, 1, length)
            higher = torch.where(joins, torch.maximum(first, second), -1)
            first.copy_(torch.maximum(first, higher))
            second.copy_(torch.maximum(second, higher))
        # the label is itself a cell: take over what that cell has found meanwhile
        flat = labels.flatten(1)
        labels = torch.where(mask, flat.gather(1, flat.clamp(min=0)).view_as(labels), -1)
        if torch.equal(labels, before):
            return labels


@dataclass(frozen=True, eq=False)
class Cells:
    """Some cells of some grids, which need not lie inside of them.

    Attributes:
        grids: the grids to which the cells belong.
        batch: the grid of each cell; the three tensors are int64 and broadcast to one shape S.
        row: the row of the cell.
        column: the column of the cell.
    """

    grids: Grids
    batch: Tensor
    row: Tensor
    column: Tensor

    @cached_property
    def heights(self) -> Tensor:
        """Rows of each cell's grid."""
        return self.grids.heights[self.batch]

    @cached_property
    def widths(self) -> Tensor:
        """Columns of each cell's grid."""
        return self.grids.widths[self.batch]

    @cached_property
    def inside(self) -> Tensor:
        """S bool, whether the cell lies in its grid."""
        return (self.row >= 0) & (self.row < self.heights) & (self.column >= 0) & (self.column < self.widths)

    def read(self, values: Tensor, outside: Tensor | float = 0) -> Tensor:
        """What a (B, H, W, ...) tensor holds for each cell, S + (...); ``outside`` for cells outside."""
        height, width = self.grids.shape
        found = values[self.batch, self.row.clamp(0, height - 1), self.column.clamp(0, width - 1)]
        inside = self.inside.reshape(self.inside.shape + (1,) * (values.dim() - 3))
        return torch.where(inside, found, outside)

    @cached_property
    def colours(self) -> Tensor:
        """S + (C,) distribution over colours; black outside."""
        black = self.grids.colours.new_zeros(COLOURS)
        black[BLACK] = 1
        return self.read(self.grids.colours, black)

    def at(self, row: Tensor, column: Tensor) -> Cells:
        """Other cells of the same grids."""
        return Cells(self.grids, self.batch, row, column)
