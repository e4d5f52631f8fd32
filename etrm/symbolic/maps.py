"""Which cell a map reads for a cell, and the size of the grid that it paints.

A map says where a colour comes from: ``paint x.up`` gives every cell the colour of the one above it, which moves the
picture down. Turns follow the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from etrm.symbolic.formula import BLACK, Also, Map, Where
from etrm.symbolic.grids import Cells, Grids

Address = Callable[..., tuple[Tensor, Tensor]]
"""From cells and the numbers of the map to the row and column of the cells that are read."""
Size = Callable[..., tuple[Tensor, Tensor]]
"""From grids and the numbers of the map to the heights and widths of what it paints."""


def map_cells(cells: Cells, mapping: Map) -> Cells:
    """The cells that a map reads for some cells."""
    return cells.at(*_ADDRESSES[mapping.name](cells, *mapping.numbers))


def make_black(grids: Grids, rule: Where | Also) -> Grids:
    """Black grids of the sizes that one step of a rule paints."""
    mapping = rule.resizes if isinstance(rule, Where) else None
    if mapping is None:
        return Grids.black(grids.shape, grids, grids.heights, grids.widths)
    heights, widths = _SIZES[mapping.name](grids, *mapping.numbers)
    shape = (max(1, int(heights.max())), max(1, int(widths.max())))
    return Grids.black(shape, grids, heights, widths)


def _offset(cells: Cells, down: int, right: int) -> tuple[Tensor, Tensor]:
    return cells.row + down, cells.column + right


def _wrap(cells: Cells, down: int, right: int) -> tuple[Tensor, Tensor]:
    return (cells.row + down) % cells.heights.clamp(min=1), (cells.column + right) % cells.widths.clamp(min=1)


def _mirror(cells: Cells, _down: int, _across: int) -> tuple[Tensor, Tensor]:
    return _reflected(cells.row, cells.heights), _reflected(cells.column, cells.widths)


def _reflected(place: Tensor, length: Tensor) -> Tensor:
    """The place in a line of some length that is followed by its mirror image, again and again."""
    length = length.clamp(min=1)
    folded = place % (2 * length)
    return torch.minimum(folded, 2 * length - 1 - folded)


def _part(cells: Cells, row: int, rows: int, column: int, columns: int) -> tuple[Tensor, Tensor]:
    return (
        cells.row + _start(cells.heights, row, rows),
        cells.column + _start(cells.widths, column, columns),
    )


def _start(length: Tensor, index: int, parts: int) -> Tensor:
    """Where a part begins; lines that separate the parts, where the length leaves room for them, are in none."""
    return torch.zeros_like(length) if parts == 1 else index * (length - length // parts) // (parts - 1)


def _crop(cells: Cells) -> tuple[Tensor, Tensor]:
    top, left, _, _ = _box(cells.grids, cells.grids.hard != BLACK)
    return cells.row + top[cells.batch], cells.column + left[cells.batch]


def _crop_to(cells: Cells, colour: int) -> tuple[Tensor, Tensor]:
    top, left, _, _ = _box(cells.grids, cells.grids.hard == colour)
    return cells.row + top[cells.batch], cells.column + left[cells.batch]


def _box(grids: Grids, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(B,) top, left, height and width of the smallest rectangle around some cells; 0 where there are none."""
    wanted = wanted & grids.mask
    found = []
    for axis in (2, 1):
        lines = wanted.any(axis)
        first = lines.long().argmax(1)
        last = lines.shape[1] - 1 - lines.flip(1).long().argmax(1)
        found.append((first, torch.where(lines.any(1), last - first + 1, 0)))
    (top, height), (left, width) = found
    return top, left, height, width


def _times(grids: Grids, down: int, across: int) -> tuple[Tensor, Tensor]:
    return grids.heights * down, grids.widths * across


def _swapped(grids: Grids) -> tuple[Tensor, Tensor]:
    return grids.widths, grids.heights


_ADDRESSES: Mapping[str, Address] = {
    "identity": lambda cells: (cells.row, cells.column),
    "flip_rows": lambda cells: (cells.heights - 1 - cells.row, cells.column),
    "flip_columns": lambda cells: (cells.row, cells.widths - 1 - cells.column),
    "rotate_180": lambda cells: (cells.heights - 1 - cells.row, cells.widths - 1 - cells.column),
    "rotate_90": lambda cells: (cells.heights - 1 - cells.column, cells.row),
    "rotate_270": lambda cells: (cells.column, cells.widths - 1 - cells.row),
    "transpose": lambda cells: (cells.column, cells.row),
    "antitranspose": lambda cells: (cells.heights - 1 - cells.column, cells.widths - 1 - cells.row),
    "left": lambda cells: _offset(cells, 0, -1),
    "right": lambda cells: _offset(cells, 0, 1),
    "up": lambda cells: _offset(cells, -1, 0),
    "down": lambda cells: _offset(cells, 1, 0),
    "offset": _offset,
    "wrap": _wrap,
    "tile": lambda cells, down, across: _wrap(cells, 0, 0),
    "mirror": _mirror,
    "scale": lambda cells, down, across: (cells.row // down, cells.column // across),
    "shrink": lambda cells, down, across: (cells.row * down, cells.column * across),
    "part": _part,
    "crop": _crop,
    "crop_to": _crop_to,
}
_SIZES: Mapping[str, Size] = {
    "rotate_90": _swapped,
    "rotate_270": _swapped,
    "transpose": _swapped,
    "antitranspose": _swapped,
    "tile": _times,
    "mirror": _times,
    "scale": _times,
    "shrink": lambda grids, down, across: (-(-grids.heights // down), -(-grids.widths // across)),
    "part": lambda grids, row, rows, column, columns: (grids.heights // rows, grids.widths // columns),
    "crop": lambda grids: _box(grids, grids.hard != BLACK)[2:],
    "crop_to": lambda grids, colour: _box(grids, grids.hard == colour)[2:],
}
"""Of the maps that change the size."""
