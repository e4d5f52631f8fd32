"""Draw figures as PNG bytes: a thin line per seed and their mean in bold. The same data gives the same bytes."""

from __future__ import annotations

import io
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from etrm.investigation.evidence.figures import Figure, Series
from reports.markdown import number, plain
from reports.plots.curves import CurveGroup, Points, groups, isolated, spread, y_limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#7A5195", "#B8860B", "#333333")
"""The palette of Okabe and Ito without its yellow; colour-blind readers can distinguish its colours."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.4, 1.4)), (0, (6, 1.6, 1.4, 1.6)), (0, (9, 2.5)))
GREY = "#555555"
WIDTH_IN, AXES_IN, DPI = 8.4, 4.0, 130
LEGEND_CHARACTERS = 88  # what fits in one line at this width and font size
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10.5,
    "text.parse_math": False,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 10.5,
    "axes.labelpad": 6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 6),
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.handlelength": 3.0,
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
}


def draw(
    figure: Figure, series: Sequence[Series], arms: Sequence[str], words: Mapping[str, str] | None = None
) -> bytes:
    """Draw a figure with the curves that have its key.

    Args:
        figure: the description of the figure.
        series: the curves of all figures.
        arms: the names of the arms in the order of the page; the position of an arm determines its colour.
        words: the words for arms in the legend; their names by default.
    """
    curves = groups(figure, series, arms, words or {})
    with fixed_style():
        canvas, axes = _frame(legend_rows=_legend_layout(curves)[1])
        _axes(axes, figure, curves)
        handles = [_group(axes, group, figure.y_log) for group in curves]
        _reference_lines(axes, figure)
        _legend(canvas, handles, curves)
        return png(canvas)


@contextmanager
def fixed_style() -> Iterator[None]:
    """Use the style of this module instead of the user's matplotlibrc, and restore theirs afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def png(canvas: Canvas) -> bytes:
    """Return the PNG bytes of a figure, without the version of matplotlib in their metadata."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    canvas.set_dpi(DPI)
    # ``savefig`` would draw everything twice, the first time for the layout alone.
    FigureCanvasAgg(canvas).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def shown(text: str, width: int = 0, lines: int = 2) -> str:
    """Return a text that the font can draw, in a few lines of at most ``width`` characters."""
    text = "".join(c if _has_glyph(c) else "?" for c in plain(text))
    if not width:
        return text
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder="…"))


@cache
def _has_glyph(character: str) -> bool:
    from matplotlib.font_manager import findfont, get_font

    if unicodedata.category(character) in ("Cf", "Cs", "Mn", "Me"):
        return False
    return bool(get_font(findfont("DejaVu Sans")).get_char_index(ord(character)))


def _frame(legend_rows: int) -> tuple[Canvas, Axes]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(WIDTH_IN, AXES_IN + 0.25 * legend_rows))
    return canvas, canvas.subplots()


def _axes(axes: Axes, figure: Figure, curves: Sequence[CurveGroup]) -> None:
    from matplotlib.ticker import MaxNLocator

    points = [p for group in curves for curve in group.curves for p in curve if p[1] == p[1]]
    axes.set_title(shown(figure.title, 80))
    axes.set_xlabel(shown(figure.x_label, 80))
    axes.set_ylabel(shown(figure.y_label, 38, lines=3))
    if figure.y_log:
        axes.set_yscale("log")
    low, high = y_limits(figure, [y for _, y in points])
    axes.set_ylim(low, high)
    if figure.y_log:
        _log_ticks(axes, low, high)
    whole = all(x == int(x) for x, _ in points)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=whole, min_n_ticks=1))
    axes.margins(x=0.015)
    if not points:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(
            0.5, 0.5, "no value was measured", transform=axes.transAxes, ha="center", va="center", color=GREY
        )


def _log_ticks(axes: Axes, low: float, high: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    ratio = high / low
    if ratio < 5:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 300 else (1,), numticks=10))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.6g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _group(axes: Axes, group: CurveGroup, y_log: bool) -> Any:
    """Draw the curves of the seeds and their mean, and return the line for the legend."""
    from matplotlib.lines import Line2D

    # Solid lines are drawn first, so that a dashed line on the same values leaves both visible.
    colour, dash = COLOURS[group.colour % len(COLOURS)], DASHES[group.dash % len(DASHES)]
    mean = group.geometric_mean if y_log else group.mean
    bold: dict[str, Any] = {"color": colour, "linestyle": dash, "linewidth": 2.3}
    if len(group.curves) > 1:
        for curve in group.curves:
            _line(axes, curve, color=colour, linewidth=0.9, alpha=0.55, zorder=2.5 + 0.01 * group.dash)
    _line(axes, mean, zorder=3.5 + 0.01 * group.dash, **bold)
    return Line2D([], [], **bold)


def _line(axes: Axes, points: Points, **style: Any) -> None:
    alone = isolated(points)
    size = 5.5 if style["linewidth"] > 2 else 3.0
    dots: dict[str, Any] = (
        {"marker": "o", "markersize": size, "markeredgewidth": 0, "markevery": alone} if alone else {}
    )
    axes.plot([x for x, _ in points], [y for _, y in points], **style, **dots)


def _reference_lines(axes: Axes, figure: Figure) -> None:
    lines = [(name, y) for name, y in figure.lines if y == y]
    low, high = axes.get_ylim()
    inside = [low <= y <= high for _, y in lines]
    for (_, y), visible in zip(lines, inside, strict=True):
        if visible:
            axes.axhline(y, color=GREY, linewidth=1.1, linestyle=(0, (2, 2)), zorder=2.2)
    labels = [_line_label(name, y, low, high) for name, y in lines]
    gap = 0.055 * max((label.count("\n") + 1 for label in labels), default=1) + 0.01
    heights = spread([_fraction(axes, min(max(y, low), high)) for _, y in lines], gap)
    for label, height in zip(labels, heights, strict=True):
        axes.annotate(
            label, (1, height), xycoords="axes fraction", xytext=(7, 0), textcoords="offset points",
            va="center", color=GREY, fontsize=9.5, annotation_clip=False,
        )  # fmt: skip


def _line_label(name: str, y: float, low: float, high: float) -> str:
    where = " (below)" if y < low else " (above)" if y > high else ""
    return shown(f"{name} = {number(y)}{where}", 22, lines=3)


def _fraction(axes: Axes, y: float) -> float:
    position = axes.transLimits.transform(axes.transScale.transform((0, y)))[1]
    return min(max(float(position), 0.0), 1.0)


def _entry(group: CurveGroup) -> str:
    seeds = f" ({len(group.curves)} seeds)" if len(group.curves) > 1 else ""
    return (shown(group.name, 66, lines=1).lstrip("_") or "unnamed") + seeds


def _legend_layout(curves: Sequence[CurveGroup]) -> tuple[int, int]:
    if not curves:
        return 1, 0
    widest = max(len(_entry(group)) for group in curves) + 9
    columns = max(1, min(len(curves), LEGEND_CHARACTERS // widest))
    return columns, -(-len(curves) // columns)


def _legend(canvas: Canvas, handles: Sequence[Any], curves: Sequence[CurveGroup]) -> None:
    if handles:
        canvas.legend(
            handles, [_entry(g) for g in curves], loc="outside lower left", ncols=_legend_layout(curves)[0]
        )
