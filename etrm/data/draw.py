"""Tasks on the terminal, in the colours of ARC."""

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

from etrm.data.task import Grid, Pair, Task

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
"""For each colour one that can be seen on it."""

_STYLES = tuple(Style(bgcolor=colour) for colour in COLOUR_HEX)
_MARKED = tuple(Style(bgcolor=colour, color=ink) for colour, ink in zip(COLOUR_HEX, INK_HEX, strict=True))


@dataclass(frozen=True, eq=False)
class DrawnGrid:
    """A grid as cells two characters wide; digits stand for the colours where there are none.

    Attributes:
        grid: of colours.
        marked: (rows, columns) cells to mark, such as wrong ones: ``><`` on the colour, or ``*`` at the digit.
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


def draw_grid(grid: Grid, marked: npt.NDArray[np.bool_] | None = None) -> DrawnGrid:
    """A grid to print with rich."""
    return DrawnGrid(grid, marked)


def draw_task(task: Task, *, answers: bool = True) -> RenderableType:
    """A task to print with rich: every pair, the outputs of the tests only on request."""
    table = Table.grid(padding=(0, 2, 1, 0))
    for number, pair in enumerate(task.demos):
        _add(table, f"demo {number}", pair, answer=True)
    for number, pair in enumerate(task.tests):
        _add(table, f"test {number}", pair, answer=answers)
    title = f"{task.id}: {len(task.demos)} demos, {len(task.tests)} tests"
    return Group(Text(title, style="bold"), Text(), table)


def _add(table: Table, label: str, pair: Pair, *, answer: bool) -> None:
    output: RenderableType = Text("?")
    if answer and pair.output is not None:
        output = Group(Text(_size(pair.output), style="dim"), draw_grid(pair.output))
    table.add_row(
        Text(label), Group(Text(_size(pair.input), style="dim"), draw_grid(pair.input)), Text("→"), output
    )


def _size(grid: Grid) -> str:
    return f"{grid.shape[0]}x{grid.shape[1]}"
