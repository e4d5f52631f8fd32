"""Draw a heat map as PNG: a row per module, a column per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from etrm.investigation.evidence.figures import Figure, Series
from reports.plots.figures import GREY, WIDTH_IN, fixed_style, png, shown

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

ROW_IN = 0.3
"""Height of a row in inches, at which its name can be read."""
MISSING = "#d9d9d9"
"""The colour of a step without a value."""


def make_grid(
    figure: Figure, series: Sequence[Series]
) -> tuple[list[str], list[float], npt.NDArray[np.float64]]:
    """Return the names of the rows, the steps, and the (rows, steps) means over seeds; NaN where there is no value."""
    mine = [one for one in series if one.figure == figure.key]
    names = list(dict.fromkeys(one.label for one in mine))
    steps = sorted({x for one in mine for x in one.x})
    column = {x: place for place, x in enumerate(steps)}
    total, count = (np.zeros((len(names), len(steps))) for _ in range(2))
    for one in mine:
        for x, y in zip(one.x, one.y, strict=True):
            if math.isfinite(y):
                total[names.index(one.label), column[x]] += y
                count[names.index(one.label), column[x]] += 1
    with np.errstate(invalid="ignore"):
        return names, steps, np.where(count > 0, total / np.maximum(count, 1), np.nan)


def draw_heat_map(figure: Figure, series: Sequence[Series]) -> bytes:
    """Draw a figure whose rows are the labels of its curves; with ``y_log``, zero is drawn as no value."""
    from matplotlib.figure import Figure as Canvas

    names, steps, grid = make_grid(figure, series)
    with fixed_style():
        canvas = Canvas(figsize=(WIDTH_IN, 1.3 + ROW_IN * max(1, len(names))))
        axes = canvas.subplots()
        axes.set_title(shown(figure.title, 80))
        axes.set_xlabel(shown(figure.x_label, 80))
        axes.grid(visible=False)
        if names and steps:
            _draw_cells(axes, figure, steps, grid)
        axes.set_yticks(range(len(names)), [shown(name, 44, lines=1) for name in names], fontsize=9)
        return png(canvas)


def _draw_cells(axes: Axes, figure: Figure, steps: Sequence[float], grid: npt.NDArray[np.float64]) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    colours = colormaps["viridis"].with_extremes(bad=MISSING)
    low, high = figure.y_range or _limits(grid, figure.y_log)
    scale: Any = LogNorm(low, high) if figure.y_log else Normalize(low, high)
    cells = np.where(grid > 0, grid, np.nan) if figure.y_log else grid
    drawn = axes.imshow(cells, cmap=colours, norm=scale, aspect="auto", interpolation="nearest")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{steps[min(max(round(x), 0), len(steps) - 1)]:g}")
    )
    bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.035, pad=0.02)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.3g}"))
    bar.set_label(shown(figure.y_label, 30, lines=2), color=GREY)


def _limits(grid: npt.NDArray[np.float64], log: bool) -> tuple[float, float]:
    known = grid[np.isfinite(grid) & ((grid > 0) | (not log))]
    if not known.size:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(known.min()), float(known.max())
    return (low, high) if high > low else (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
