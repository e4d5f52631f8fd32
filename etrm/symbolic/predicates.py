"""What each predicate of :data:`etrm.symbolic.formula.PREDICATES` means: a fixed bank, and learned ones as modules.

Every function takes cells that broadcast to a shape S and returns truths S; where the predicate has a number, truths
S + (n,) of every number at once. Outside of a grid cells are black, and hold no other predicate but colours.

Colours are read as distributions, so a gradient passes through `colour`, `same_colour` and the learned predicates.
Components, boxes and counts are those of the likeliest grid, which no gradient passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from etrm.config import SymbolicConfig
from etrm.errors import FormulaError
from etrm.symbolic.formula import BLACK, COLOURS, LARGEST_COUNT, Atom
from etrm.symbolic.grids import Cells, Grids

# -- position -------------------------------------------------------------------------------------


def edge(x: Cells) -> Tensor:
    """In the first or last row or column."""
    return x.read(x.grids.edge, False)


def inner(x: Cells) -> Tensor:
    """Not in the first or last row or column."""
    return x.inside & ~edge(x)


def corner(x: Cells) -> Tensor:
    """In the first or last row and in the first or last column."""
    vertical = (x.row == 0) | (x.row == x.heights - 1)
    return vertical & ((x.column == 0) | (x.column == x.widths - 1)) & x.inside


# -- colour ---------------------------------------------------------------------------------------


def colour(x: Cells) -> Tensor:
    """Of each colour."""
    return x.colours


def same_colour(x: Cells, y: Cells) -> Tensor:
    """Both of one colour: the chance that a draw from each distribution is the same."""
    return (x.colours * y.colours).sum(-1)


# -- relations ------------------------------------------------------------------------------------


def touching(x: Cells, y: Cells) -> Tensor:
    """Side by side, or one above the other."""
    return ((x.row - y.row).abs() + (x.column - y.column).abs() == 1) & x.inside & y.inside


def same_row(x: Cells, y: Cells) -> Tensor:
    """Different cells of one row."""
    return (x.row == y.row) & (x.column != y.column) & x.inside & y.inside


def same_column(x: Cells, y: Cells) -> Tensor:
    """Different cells of one column."""
    return (x.column == y.column) & (x.row != y.row) & x.inside & y.inside


def left_of(x: Cells, y: Cells) -> Tensor:
    """In the row of y, to the left of it."""
    return same_row(x, y) & (x.column < y.column)


def above(x: Cells, y: Cells) -> Tensor:
    """In the column of y, above it."""
    return same_column(x, y) & (x.row < y.row)


def between(x: Cells, y: Cells, z: Cells) -> Tensor:
    """In one row or column with y and z, strictly between them."""
    in_row = same_row(x, y) & same_row(x, z) & ((x.column - y.column) * (x.column - z.column) < 0)
    in_column = same_column(x, y) & same_column(x, z) & ((x.row - y.row) * (x.row - z.row) < 0)
    return in_row | in_column


def ray(x: Cells, y: Cells) -> Tensor:
    """In one row or column, and every cell strictly between them is black."""
    by_row, by_column = x.grids.painted_before

    def painted_between(line: Tensor) -> Tensor:
        first, second = x.read(line), y.read(line)
        later = torch.where(_comes_later(x, y), x.read(painted), y.read(painted))
        return (first - second).abs() - later

    painted = ((x.grids.hard != BLACK) & x.grids.mask).long()
    free_row = same_row(x, y) & (painted_between(by_row) == 0)
    return free_row | (same_column(x, y) & (painted_between(by_column) == 0))


def _comes_later(x: Cells, y: Cells) -> Tensor:
    return (x.row > y.row) | ((x.row == y.row) & (x.column > y.column))


# -- topology and counting ------------------------------------------------------------------------


def enclosed(x: Cells) -> Tensor:
    """Black, and no path of touching black cells leads to the edge."""
    return x.read(x.grids.enclosed, False)


def size(x: Cells) -> Tensor:
    """Its component (touching cells of one colour) has each number of cells."""
    counts = torch.arange(LARGEST_COUNT + 1, device=x.row.device)
    found = x.read(x.grids.component_sizes).clamp(max=LARGEST_COUNT)
    return (found.unsqueeze(-1) == counts) & x.inside.unsqueeze(-1)


def largest(x: Cells) -> Tensor:
    """In a component that is not black, and none of those has more cells."""
    sizes, most = _coloured_sizes(x.grids), _extreme(_coloured_sizes(x.grids), largest=True)
    return x.read((sizes == most) & (sizes > 0), False)


def smallest(x: Cells) -> Tensor:
    """In a component that is not black, and none of those has fewer cells."""
    sizes, fewest = _coloured_sizes(x.grids), _extreme(_coloured_sizes(x.grids), largest=False)
    return x.read((sizes == fewest) & (sizes > 0), False)


def majority(x: Cells) -> Tensor:
    """Of a colour besides black that no other one outnumbers."""
    counts = _coloured_counts(x)
    return x.read((counts == _extreme(counts, largest=True)) & (counts > 0), False)


def minority(x: Cells) -> Tensor:
    """Of a colour besides black that the grid has, and none of those has fewer cells."""
    counts = _coloured_counts(x)
    return x.read((counts == _extreme(counts, largest=False)) & (counts > 0), False)


def _coloured_sizes(grids: Grids) -> Tensor:
    """(B, H, W), sizes of components; 0 in black ones."""
    return grids.component_sizes * (grids.hard != BLACK)


def _coloured_counts(x: Cells) -> Tensor:
    """(B, H, W), cells of each cell's colour; 0 in black cells."""
    grids = x.grids
    counts = grids.colour_counts.gather(1, grids.hard.flatten(1)).view_as(grids.hard)
    return counts * ((grids.hard != BLACK) & grids.mask)


def _extreme(counts: Tensor, *, largest: bool) -> Tensor:
    """(B, 1, 1), the largest or the smallest of the counts that are not 0."""
    if largest:
        return counts.amax((1, 2), keepdim=True)
    return torch.where(counts > 0, counts, counts.amax((1, 2), keepdim=True)).amin((1, 2), keepdim=True)


_BANK: tuple[Callable[..., Tensor], ...] = (
    *(
        edge,
        inner,
        corner,
        colour,
        same_colour,
        touching,
        same_row,
        same_column,
        left_of,
        above,
        between,
        ray,
    ),
    *(enclosed, size, largest, smallest, majority, minority),
)
FIXED: Mapping[str, Callable[..., Tensor]] = {function.__name__: function for function in _BANK}
"""The bank of predicates without weights, less ``true``."""


# -- learned --------------------------------------------------------------------------------------


class LearnedGuards(nn.Module):
    """K predicates of a cell, by a convolution over the cells around it and one layer per cell.

    Of every cell around, the net sees the colours, whether it lies in the grid, and whether it has the same colour.

    Args:
        guards: number K of predicates.
        width: channels between the two layers.
        reach: the number of cells that it sees in each direction.
    """

    def __init__(self, guards: int, width: int, reach: int) -> None:
        super().__init__()
        steps = torch.arange(-reach, reach + 1)
        self.register_buffer("down", steps.repeat_interleave(len(steps)), persistent=False)
        self.register_buffer("right", steps.repeat(len(steps)), persistent=False)
        self.around = nn.Linear(len(steps) ** 2 * (COLOURS + 2), width)
        self.guards = nn.Linear(width, guards)

    down: Tensor
    right: Tensor

    def forward(self, x: Cells) -> Tensor:
        """S + (K,) truths."""
        near = Cells(
            x.grids,
            x.batch.unsqueeze(-1),
            x.row.unsqueeze(-1) + self.down,
            x.column.unsqueeze(-1) + self.right,
        )
        inside = near.inside.unsqueeze(-1)
        same = (near.colours * x.colours.unsqueeze(-2)).sum(-1, keepdim=True)
        seen = torch.cat((near.colours * inside, inside.to(same.dtype), same * inside), dim=-1)
        truths: Tensor = self.guards(functional.relu(self.around(seen.flatten(-2)))).sigmoid()
        return truths * x.inside.unsqueeze(-1)


class LearnedPairs(nn.Module):
    """K predicates of two cells, from their distance in rows and columns and their colours.

    Args:
        guards: number K of predicates.
        width: channels between the two layers.
    """

    def __init__(self, guards: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(COLOURS, width)
        self.second = nn.Linear(COLOURS, width, bias=False)
        self.offset = nn.Linear(6, width, bias=False)
        self.guards = nn.Linear(width, guards)

    def forward(self, x: Cells, y: Cells) -> Tensor:
        """S + (K,) truths."""
        down, right = (y.row - x.row).to(x.colours.dtype), (y.column - x.column).to(x.colours.dtype)
        parts = (down.sign(), right.sign(), down / 10, right / 10, (down == 0) * 1.0, (right == 0) * 1.0)
        offset = torch.stack(torch.broadcast_tensors(*parts), dim=-1).to(x.colours.dtype)
        hidden = self.first(x.colours) + self.second(y.colours) + self.offset(offset)
        truths: Tensor = self.guards(functional.relu(hidden)).sigmoid()
        return truths * (x.inside & y.inside).unsqueeze(-1)


class Predicates(nn.Module):
    """Every predicate by its name; the learned ones are submodules.

    Args:
        config: number, width and reach of the learned predicates; None for the fixed bank alone.
    """

    def __init__(self, config: SymbolicConfig | None = None) -> None:
        super().__init__()
        learned = config if config is not None and "learned" in config.families else None
        self.guards = None if learned is None else LearnedGuards(learned.guards, learned.width, learned.reach)
        self.pairs = None if learned is None else LearnedPairs(learned.guards, learned.width)

    def forward(self, name: str, *cells: Cells) -> Tensor:
        """The truths of one predicate, S, or S + (n,) of every number that it can have.

        Raises:
            FormulaError: the predicate is learned and there is none.
        """
        if name in FIXED:
            return FIXED[name](*cells).to(cells[0].grids.colours.dtype)
        module = {"learned": self.guards, "related": self.pairs}[name]
        if module is None:
            raise FormulaError(
                "formula.nothing-learned",
                f"predicate {name} is learned, and this solver has no learned predicates",
                allowed="the family 'learned' in the library",
            )
        truths: Tensor = module(*cells)
        return truths


def select_number(atom: Atom, truths: Tensor) -> Tensor:
    """The truths of an atom, from those of every number that its predicate can have.

    Raises:
        FormulaError: there are fewer learned predicates.
    """
    if atom.number is None:
        return truths
    if atom.number >= truths.shape[-1]:
        raise FormulaError(
            "formula.no-such-guard",
            f"{atom} names a learned predicate that does not exist",
            got=str(atom.number),
            allowed=f"0 to {truths.shape[-1] - 1}",
        )
    return truths[..., atom.number]
