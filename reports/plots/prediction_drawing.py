"""Draw answers as ARC grids (input, target, answer) with wrong cells marked, in the terminal and as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from etrm.data import Grid, Pair
from etrm.training.scoring.score_run import Evaluated
from reports.grid_drawing import COLOUR_HEX, INK_HEX, draw_grid, format_size
from reports.markdown import count
from reports.plots.figures import GREY, fixed_style, png, shown
from reports.runs.predictions import Answered, Mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORDS_IN, LABEL_IN, GAP_IN, LINE_IN = 2.1, 0.22, 0.3, 0.18
LABEL_CHARACTER_IN, TITLE_CHARACTER_IN = 0.075, 0.09
RIGHT, WRONG = "#00684B", "#A33B00"
LARGEST_CELL_IN, LARGEST_IN = 0.26, 2.3
"""The size of a cell and the largest size of a grid, in inches. Cells shrink so that the grid fits."""

DEMO_SCALE = 0.6
"""The scale of a demonstration relative to a query."""


def caption(run: Path, found: Evaluated, answers: Sequence[Answered]) -> str:
    """Return a caption: the run, what was evaluated, and how many of the drawn answers are correct."""
    section = found.config.evaluate
    right = sum(one.solved for one in answers)
    return (
        f"{run}, step {found.step}, {found.weights} weights, {section.source} {section.subset}: "
        f"{right} of {count(len(answers), 'query', 'queries')} shown are solved; "
        f"all evaluated tasks: {found.report.pass_at[1]}"
    )


def in_terminal(answers: Sequence[Answered], *, demos: bool = False) -> RenderableType:
    """Return answers to print with rich. Without colours, cells are digits, and wrong ones have a star.

    Args:
        answers: the answers to draw.
        demos: whether to draw the demonstrations of each task above its queries.
    """
    parts: list[RenderableType] = []
    for place, one in enumerate(answers):
        if demos and (place == 0 or answers[place - 1].task.id != one.task.id):
            parts += [_demo_rows(one.task.demos), Text()]
        style = "bold green" if one.solved else "bold red"
        head = Text.assemble((f"{one.task.id} test {one.query}: ", "bold"), (one.words()[0], style))
        head.append("".join(f", {words}" for words in one.words()[1:]))
        grids = Table.grid(padding=(0, 3, 0, 0))
        grids.add_row(
            _titled("input", one.pair.input),
            _titled("target", one.target),
            _titled("answer", one.grid, one.wrong_cells),
        )
        parts += [head, grids, Text()]
    return Group(*parts)


def _titled(title: str, grid: Grid, marked: Mask | None = None) -> RenderableType:
    head = Text(f"{title} {format_size(grid)}" if grid.size else f"{title}: none", style="dim")
    return Group(head, draw_grid(grid, marked)) if grid.size else head


def _demo_rows(pairs: Sequence[Pair]) -> RenderableType:
    table = Table.grid(padding=(0, 3, 0, 0))
    for number, pair in enumerate(pairs):
        table.add_row(*(_titled(f"demo {number}", grid) for grid in pair.grids))
    return table


@dataclass(frozen=True)
class GridPanel:
    """A grid under its label.

    Attributes:
        label: the text above the grid.
        grid: the (rows, columns) colours, or truths from 0 (white) to 1 (black) if ``truths`` is True.
        marked: the (rows, columns) cells to cross.
        truths: whether the grid holds truths.
    """

    label: str
    grid: npt.NDArray[Any]
    marked: Mask | None = None
    truths: bool = False


@dataclass(frozen=True)
class PanelRow:
    """Panels side by side, with lines of text to their left and above.

    Attributes:
        words: the lines to the left.
        colour: the colour of the first two of them.
        panels: the panels.
        scale: the size relative to a query.
        heading: the lines above, in the whole width.
    """

    words: list[str]
    colour: str
    panels: list[GridPanel]
    scale: float = 1.0
    heading: tuple[str, ...] = ()

    @property
    def cell_in(self) -> float:
        """The size of a cell in inches, which is the same in the whole row."""
        longest = max((max(panel.grid.shape) for panel in self.panels), default=1)
        return self.scale * min(LARGEST_CELL_IN, LARGEST_IN / longest)

    @property
    def width_in(self) -> float:
        """The width in inches, with gaps."""
        panels = sum(_width_in(panel, self.cell_in) + GAP_IN for panel in self.panels)
        return max(WORDS_IN + panels, GAP_IN + LABEL_CHARACTER_IN * max(map(len, self.heading), default=0))

    @property
    def height_in(self) -> float:
        """The height of the panels or the text, with labels and the gap below, in inches."""
        grids = LABEL_IN + self.cell_in * max((panel.grid.shape[0] for panel in self.panels), default=0)
        return self.heading_in + max(grids, LINE_IN * (len(self.words) + 1)) + GAP_IN

    @property
    def heading_in(self) -> float:
        """The height of the lines above, in inches."""
        return LINE_IN * (len(self.heading) + 0.5) if self.heading else 0.0


def as_png(title: str, answers: Sequence[Answered], *, demos: bool = False) -> bytes:
    """Return answers as one PNG figure: a row per answer, with wrong cells crossed.

    Args:
        title: the title of the figure.
        answers: the answers to draw.
        demos: whether to draw the demonstrations of each task in a row above its queries.
    """
    return draw_rows(title, _rows(answers, demos))


def draw_rows(title: str, rows: Sequence[PanelRow]) -> bytes:
    """Return a PNG figure of rows of grids."""
    from matplotlib.figure import Figure

    width = max((row.width_in for row in rows), default=WORDS_IN)
    head = shown(title, round(width / TITLE_CHARACTER_IN), lines=3)
    head_in = GAP_IN + LINE_IN * (head.count("\n") + 1)
    height = head_in + sum(row.height_in for row in rows)
    with fixed_style():
        canvas = Figure(figsize=(width, height), layout="none")  # type: ignore[arg-type]  # fixed positions
        place = _Place(canvas, width, height)
        place.text(GAP_IN / 2, GAP_IN / 3, head, weight="bold", va="top", fontsize=10)
        top = head_in
        for row in rows:
            for number, line in enumerate(row.heading):
                at = top + number * LINE_IN
                place.text(GAP_IN / 2, at, shown(line), va="top", fontsize=9, color=GREY)
            top += row.heading_in
            for number, line in enumerate(row.words):
                style = {"weight": "bold", "color": row.colour} if number < 2 else {"color": GREY}
                place.text(GAP_IN / 2, top + number * LINE_IN, shown(line), va="top", fontsize=9, **style)
            left = WORDS_IN
            for panel in row.panels:
                place.text(left, top, shown(panel.label), va="top", fontsize=9, color=GREY)
                if panel.grid.size:
                    _cells(place.axes(left, top + LABEL_IN, panel.grid, row.cell_in), panel)
                left += _width_in(panel, row.cell_in) + GAP_IN
            top += row.height_in - row.heading_in
        return png(canvas)


Line = tuple[tuple[float, float], tuple[float, float]]
"""The two ends of a line, each as x and y."""


class _Place:
    """Converts inches from the top-left corner to matplotlib's fractions from the bottom-left corner."""

    def __init__(self, canvas: Figure, width: float, height: float) -> None:
        self._canvas, self._width, self._height = canvas, width, height

    def text(self, left: float, top: float, text: str, **style: Any) -> None:
        self._canvas.text(left / self._width, 1 - top / self._height, text, **style)

    def axes(self, left: float, top: float, grid: Grid, cell: float) -> Axes:
        height, width = (side * cell for side in grid.shape)
        return self._canvas.add_axes(
            (
                left / self._width,
                1 - (top + height) / self._height,
                width / self._width,
                height / self._height,
            )
        )


def _width_in(panel: GridPanel, cell: float) -> float:
    return max(cell * panel.grid.shape[1], LABEL_CHARACTER_IN * len(panel.label))


def _rows(answers: Sequence[Answered], demos: bool) -> list[PanelRow]:
    rows = []
    for place, one in enumerate(answers):
        if demos and (place == 0 or answers[place - 1].task.id != one.task.id):
            panels = [
                GridPanel(f"demo {number} {side}", grid)
                for number, pair in enumerate(one.task.demos)
                for side, grid in zip(("in", "out"), pair.grids, strict=True)
            ]
            rows.append(PanelRow([f"{one.task.id} demos"], GREY, panels, DEMO_SCALE))
        panels = [
            GridPanel(_label("input", one.pair.input), one.pair.input),
            GridPanel(_label("target", one.target), one.target),
            GridPanel(_label("answer", one.grid), one.grid, one.wrong_cells),
        ]
        head = f"{one.task.id} test {one.query}"
        rows.append(PanelRow([head, *one.words()], RIGHT if one.solved else WRONG, panels))
    return rows


def _label(title: str, grid: Grid) -> str:
    return f"{title} {format_size(grid)}" if grid.size else f"{title}: none"


def _cells(axes: Axes, panel: GridPanel) -> None:
    """Draw a grid in ARC's colours, with lines between cells and a cross on each marked cell.

    Lines are drawn together: a tick per line takes ten times as long.
    """
    from matplotlib.colors import ListedColormap

    rows, columns = panel.grid.shape
    shades, largest = ("gray_r", 1) if panel.truths else (ListedColormap(COLOUR_HEX), 9)
    axes.imshow(panel.grid, cmap=shades, vmin=0, vmax=largest, aspect="auto")
    axes.set(xticks=[], yticks=[])
    right, bottom = columns - 0.5, rows - 0.5
    lines = [((x - 0.5, -0.5), (x - 0.5, bottom)) for x in range(1, columns)]
    lines += [((-0.5, y - 0.5), (right, y - 0.5)) for y in range(1, rows)]
    _draw_lines(axes, lines, "#555555", 0.5)
    for spine in axes.spines.values():
        spine.set(visible=True, color="#555555", linewidth=0.5)
    if panel.marked is not None:
        places = [(row, column, slope) for row, column in np.argwhere(panel.marked) for slope in (-0.3, 0.3)]
        crosses = [((x - 0.3, y - slope), (x + 0.3, y + slope)) for y, x, slope in places]
        _draw_lines(axes, crosses, [INK_HEX[panel.grid[y, x]] for y, x, _ in places], 1.1)
    axes.set(xlim=(-0.5, right), ylim=(bottom, -0.5))


def _draw_lines(axes: Axes, lines: Sequence[Line], colours: str | list[str], width: float) -> None:
    from matplotlib.collections import LineCollection

    axes.add_collection(LineCollection(lines, colors=colours, linewidths=width, zorder=2.5), autolim=False)
