"""Draw grids, tasks and episodes in the terminal, in the colours of ARC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from etrm.config import SIDE
from etrm.data.augment import parse_name
from etrm.data.sample import CELLS, DemoPair, Query, Sample
from etrm.data.task import Grid, Pair, Task
from etrm.data.tokens import EOS, FIRST_COLOUR, PAD, Tokens, read_grid

COLOUR_NAMES = ("black", "blue", "red", "green", "yellow", "grey", "magenta", "orange", "sky", "maroon")
COLOUR_HEX = (
    "#000000",
    "#0074D9",
    "#FF4136",
    "#2ECC40",
    "#FFDC00",
    "#AAAAAA",
    "#F012BE",
    "#FF851B",
    "#7FDBFF",
    "#870C25",
)
_DARK = ("black", "blue", "red", "magenta", "maroon")
INK_HEX = tuple("#FFFFFF" if name in _DARK else "#000000" for name in COLOUR_NAMES)
"""For each colour, a second colour that is visible on it."""

_STYLES = tuple(Style(bgcolor=colour) for colour in COLOUR_HEX)
_NO_COLOUR = Style(dim=True)
_MARKED = tuple(Style(bgcolor=colour, color=ink) for colour, ink in zip(COLOUR_HEX, INK_HEX, strict=True))


@dataclass(frozen=True, eq=False)
class DrawnGrid:
    """A grid drawn with cells two characters wide, or with digits if the terminal has no colours.

    Attributes:
        grid: the grid of colours.
        marked: (rows, columns) bool, the cells to mark, such as wrong ones: ``><`` on the colour, ``*`` after a digit.
    """

    grid: Grid
    marked: npt.NDArray[np.bool_] | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = console.color_system is None or console.no_color
        marked = np.zeros(self.grid.shape, bool) if self.marked is None else self.marked
        for row, marks in zip(self.grid.tolist(), marked.tolist(), strict=True):
            for cell, mark in zip(row, marks, strict=True):
                if plain:
                    yield Segment(f"{cell}*" if mark else f"{cell} ")
                else:
                    yield Segment("><", _MARKED[cell]) if mark else Segment("  ", _STYLES[cell])
            yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = 2 * self.grid.shape[1]
        return Measurement(width, width)


@dataclass(frozen=True, eq=False)
class DrawnCanvas:
    """Tokens drawn two characters wide: colours as in :class:`DrawnGrid`, ``+`` for EOS, ``.`` for PAD.

    Attributes:
        canvas: the (rows, columns) tokens.
    """

    canvas: Tokens

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = console.color_system is None or console.no_color
        for row in self.canvas.tolist():
            for token in row:
                if token < FIRST_COLOUR:
                    yield Segment("+ " if token == EOS else ". ", _NO_COLOUR)
                elif plain:
                    yield Segment(f"{token - FIRST_COLOUR} ")
                else:
                    yield Segment("  ", _STYLES[token - FIRST_COLOUR])
            yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = 2 * self.canvas.shape[1]
        return Measurement(width, width)


def draw_grid(grid: Grid, marked: npt.NDArray[np.bool_] | None = None) -> DrawnGrid:
    """Return a grid to print with rich."""
    return DrawnGrid(grid, marked)


def draw_task(task: Task, *, answers: bool = True) -> RenderableType:
    """Return a task to print with rich: every pair, with the test outputs if ``answers`` is True."""
    table = Table.grid(padding=(0, 2, 1, 0))
    for number, pair in enumerate(task.demos):
        _add(table, f"demo {number}", pair, answer=True)
    for number, pair in enumerate(task.tests):
        _add(table, f"test {number}", pair, answer=answers)
    title = f"{task.id}: {len(task.demos)} demos, {len(task.tests)} tests"
    return Group(Text(title, style="bold"), Text(), table)


def draw_episode(sample: Sample, query: Query) -> RenderableType:
    """Return an episode to print with rich, read back from its tokens: what the model sees, and the hidden target.

    Args:
        sample: the episode.
        query: the query from which it was made; the inverse augmentation is checked against its grids.
    """
    _, augmentation = parse_name(sample.name)
    inverse = augmentation.inverted
    demos = [_canvases(demo) for demo in sample.demos]
    question = _canvas(sample.tokens, sample.positions)
    seen = [_grid(canvas) for pair in demos for canvas in pair] + [_grid(question)]
    made_of = [grid for demo in query.demos[: len(demos)] for grid in demo.grids] + [query.pair.input]
    if sample.target is not None and query.pair.output is not None:
        seen, made_of = [*seen, sample.target], [*made_of, query.pair.output]
    exact = sum(np.array_equal(inverse.apply(a), b) for a, b in zip(seen, made_of, strict=True))

    table = Table.grid(padding=(0, 2, 1, 0))
    for number, pair in enumerate(demos):
        first, second = (_titled(format_size(_grid(canvas)), DrawnCanvas(canvas)) for canvas in pair)
        table.add_row(Text(f"demo {number}"), first, Text("→"), second)
    table.add_row(
        Text("query"),
        _titled(format_size(_grid(question)), DrawnCanvas(question)),
        Text("→"),
        Text("?"),
    )
    if sample.target is None:
        table.add_row(Text("target"), Text("unknown"))
    else:
        back = inverse.apply(sample.target)
        table.add_row(
            Text("target"),
            _titled(f"{format_size(sample.target)}, hidden", draw_grid(sample.target)),
            Text("←"),
            _titled(f"{format_size(back)}, its inverse", draw_grid(back)),
        )
    kind = "a left-out demonstration" if query.left_out else "a test pair"
    return Group(
        Text(sample.name, style="bold"),
        Text(f"query {query.index}, {kind}, with {len(demos)} of {len(query.task.demos)} demonstrations"),
        Text(f"augmentation: {augmentation.words}"),
        Text(f"inverse:      {inverse.words}"),
        Text(f"the inverse restores {exact} of {len(seen)} grids exactly"),
        Text("+ marks the end of a row or column (EOS), . marks padding (PAD)", style="dim"),
        Text(),
        table,
    )


def _canvas(tokens: Tokens, positions: Tokens) -> Tokens:
    """Return the (rows, columns) tokens at their positions, up to the last one, with PAD in between."""
    rows, columns = np.divmod(positions, SIDE)
    canvas = np.full((rows.max() + 1, columns.max() + 1), PAD, dtype=np.int16)
    canvas[rows, columns] = tokens
    return canvas


def _canvases(demo: DemoPair) -> tuple[Tokens, Tokens]:
    """Return the canvases of the input and of the output of a demonstration."""
    there = demo.positions >= CELLS
    output = _canvas(demo.tokens[there], demo.positions[there] - CELLS)
    return _canvas(demo.tokens[~there], demo.positions[~there]), output


def _grid(canvas: Tokens) -> Grid:
    """Return the grid on a canvas, even if it is shifted."""
    top, left = np.argwhere(canvas >= FIRST_COLOUR).min(axis=0)
    return read_grid(canvas[top:, left:])


def _titled(title: str, drawn: RenderableType) -> RenderableType:
    return Group(Text(title, style="dim"), drawn)


def _add(table: Table, label: str, pair: Pair, *, answer: bool) -> None:
    output: RenderableType = Text("?")
    if answer and pair.output is not None:
        output = _titled(format_size(pair.output), draw_grid(pair.output))
    table.add_row(Text(label), _titled(format_size(pair.input), draw_grid(pair.input)), Text("→"), output)


def format_size(grid: Grid) -> str:
    """Return the size of a grid as text, rows x columns."""
    return f"{grid.shape[0]}x{grid.shape[1]}"
