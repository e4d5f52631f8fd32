"""All evidence of a page in one picture: a line per row with its outcome, the measured value and the control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from etrm.investigation.evidence.table import EvidenceRow
from etrm.investigation.records import NotMeasured, Value
from reports.markdown import NOTHING, number
from reports.plots.figures import GREY, fixed_style, png, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 16
"""Rows that still fit on a screen. Rows that decide something come first."""
WIDTH_IN = 5.6
"""Width in inches: narrow, so that a telephone shows a whole line (report.css)."""
WORDS_IN_A_LINE = 42
"""Characters in one of the two lines of a row's words."""
ROW_IN = 0.34
"""Height of a row in inches: two lines of text."""
TITLE = "Evidence at a glance"
CAPTION = (
    "Each line is a row of the evidence: the dot is the measured value and the tick is the control, both relative to "
    "the larger of the two. Green rows pass, red rows fail, and grey rows decide nothing."
)
COLOURS = {True: "#14682D", False: "#B3261E", None: "#8A8A8A"}
WORDS = {True: "passes", False: "fails", None: ""}


def select_rows(rows: Sequence[EvidenceRow]) -> list[EvidenceRow]:
    """Return the rows to draw: failed ones first, then passed ones, then measured ones that decide nothing."""
    measured = [row for row in rows if not isinstance(row.treatment, NotMeasured | None)]
    return sorted(measured, key=lambda row: (row.passed is None, row.passed is True))[:MOST_ROWS]


def draw_evidence(rows: Sequence[EvidenceRow]) -> bytes:
    """Draw rows of evidence as PNG, one below the other."""
    from matplotlib.figure import Figure as Canvas

    with fixed_style():
        canvas = Canvas(figsize=(WIDTH_IN, 0.75 + ROW_IN * len(rows)))
        words, scale, numbers = canvas.subplots(1, 3, sharey=True, width_ratios=(0.54, 0.17, 0.29))
        words.set_title(TITLE)
        numbers.set_title("measured / control", fontsize=9, color=GREY, weight="normal")
        for axes in (words, scale, numbers):
            axes.set_axis_off()
            axes.set(ylim=(len(rows) - 0.4, -0.6))
        for axes in (words, numbers):
            axes.set_xlim(0, 1)
        scale.set_xlim(-1.15, 1.15) if any(_has_negative(row) for row in rows) else scale.set_xlim(-0.1, 1.15)
        for place, row in enumerate(rows):
            _draw_row(words, scale, numbers, place, row)
        return png(canvas)


def _has_negative(row: EvidenceRow) -> bool:
    return any(isinstance(value, float | int) and value < 0 for value in (row.treatment, row.control))


def _draw_row(words: Axes, scale: Axes, numbers: Axes, place: int, row: EvidenceRow) -> None:
    colour = COLOURS[row.passed]
    words.text(0, place, shown(row.metric, WORDS_IN_A_LINE), va="center", fontsize=9)
    scale.plot([0, 1], [place, place], color="#e4e4e4", linewidth=1, zorder=1)
    control, treatment = _scale(row)
    if control is not None:
        scale.plot([control], [place], marker="|", markersize=13, color=GREY, markeredgewidth=2, zorder=2)
    if treatment is not None:
        scale.plot(
            [treatment], [place], marker="o", markersize=6.5, color=colour, markeredgewidth=0, zorder=3
        )
    against = "" if row.control is None else f" / {_format(row.control)}"
    text = " ".join(filter(None, (_format(row.treatment) + against, WORDS[row.passed])))
    numbers.text(0, place, shown(text, 28, lines=1), va="center", fontsize=9, color=colour)


def _scale(row: EvidenceRow) -> tuple[float | None, float | None]:
    """Return control and treatment relative to the larger of them."""
    values = [value if isinstance(value, float | int) else None for value in (row.control, row.treatment)]
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    control, treatment = (None if value is None else value / (largest or 1.0) for value in values)
    return control, treatment


def _format(value: Value | None) -> str:
    return number(value) if isinstance(value, float | int) else NOTHING
