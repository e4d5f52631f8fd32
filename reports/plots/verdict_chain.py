"""The picture with which a report begins: a box per hypothesis in the order of dependence, coloured by its verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etrm.investigation.records import Verdict
from etrm.investigation.result import Result
from reports.names import order_hypotheses
from reports.plots.figures import GREY, fixed_style, png, shown
from reports.words import VERDICTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
"""Boxes in a row, few enough to be read on a telephone."""
BOX_WIDTH, BOX_HEIGHT, GAP = 0.88, 0.68, 0.12
"""Sides of a box and the gap to the next, in units of a column and of a row."""
WIDTH_IN, ROW_IN = 6.6, 1.0
"""Width of the picture and height of a row in inches."""
CAUSE_FILL = "#B3261E"
"""The fill of the box of a proven root cause; its text is white."""
FILLS = {
    Verdict.VALIDATED: ("#FFFFFF", "#B3261E"),
    Verdict.INVALIDATED: ("#E7F4EA", "#14682D"),
    Verdict.INCONCLUSIVE: ("#FFF6DD", "#8A5A00"),
    Verdict.ERROR: ("#F8E8F9", "#86208A"),
    Verdict.NOT_RUN: ("#F4F4F4", "#8A8A8A"),
}
"""The fill and the edge of a box by verdict, with the colours of the verdicts in the text."""
ORDER = "The hypotheses in the order of dependence: a fault in one can make later ones look at fault."


@dataclass(frozen=True)
class VerdictBox:
    """A box of the chain.

    Attributes:
        name: the id of the hypothesis.
        title: its title.
        words: its verdict in words.
        fill: the colour of the box.
        edge: the colour of its edge.
        is_cause: whether it is the proven root cause.
    """

    name: str
    title: str
    words: str
    fill: str
    edge: str
    is_cause: bool


def has_verdict(result: Result) -> bool:
    """Return whether a hypothesis was decided, so that there is something to show."""
    return any(hypothesis.verdict is not Verdict.NOT_RUN for hypothesis in result.hypotheses.values())


def make_boxes(result: Result) -> list[VerdictBox]:
    """Return a box per hypothesis in the order of dependence; the box of a proven root cause is filled."""
    boxes = []
    for key in order_hypotheses(result):
        hypothesis = result.hypotheses[key]
        named = result.root_cause == key
        is_cause = named and result.root_cause_confidence == "proven"
        words = VERDICTS[hypothesis.verdict]
        if named:
            words = "root cause" if is_cause else f"{words}, leading candidate"
        fill, edge = (CAUSE_FILL, CAUSE_FILL) if is_cause else FILLS[hypothesis.verdict]
        boxes.append(VerdictBox(key, hypothesis.title, words, fill, edge, is_cause))
    return boxes


def caption(result: Result) -> str:
    """Return the caption of the picture."""
    proven = result.root_cause_confidence == "proven"
    filled = "The filled red box is the root cause."
    return f"{ORDER} {filled if proven else 'No hypothesis is proven to be the root cause.'}"


def draw_chain(boxes: list[VerdictBox]) -> bytes:
    """Draw the boxes in rows, each with an arrow to the next one, as PNG."""
    from matplotlib.figure import Figure as Canvas

    rows = -(-len(boxes) // COLUMNS)
    with fixed_style():
        canvas = Canvas(figsize=(WIDTH_IN, ROW_IN * rows + 0.1))
        axes = canvas.subplots()
        axes.set(xlim=(-GAP / 2, COLUMNS - GAP / 2), ylim=(rows - GAP, -GAP))
        axes.set_axis_off()
        for place, box in enumerate(boxes):
            _draw_box(axes, box, place % COLUMNS, place // COLUMNS)
            if place + 1 < len(boxes):
                _draw_arrow(axes, place)
        return png(canvas)


def _draw_box(axes: Axes, box: VerdictBox, column: int, row: int) -> None:
    from matplotlib.patches import FancyBboxPatch

    style: dict[str, Any] = {
        "boxstyle": "round,pad=0,rounding_size=0.06",
        "linewidth": 2.4 if box.is_cause else 1.6,
    }
    axes.add_patch(
        FancyBboxPatch((column, row), BOX_WIDTH, BOX_HEIGHT, facecolor=box.fill, edgecolor=box.edge, **style)
    )
    ink = "#FFFFFF" if box.is_cause else "#1C1C1C"
    centre = column + BOX_WIDTH / 2
    head = f"{shown(box.name, 8, lines=1)}  {shown(box.title, 19, lines=1)}"
    axes.text(centre, row + 0.23, head, ha="center", va="center", weight="bold", color=ink, fontsize=9.8)
    words = ink if box.is_cause else box.edge
    axes.text(centre, row + 0.46, shown(box.words, 26), ha="center", va="center", color=words, fontsize=10)


def _draw_arrow(axes: Axes, place: int) -> None:
    """Draw the arrow from a box to the next one; the one to the next row runs between the rows."""
    column, row = place % COLUMNS, place // COLUMNS
    middle = column + BOX_WIDTH / 2
    start: tuple[float, float] = (column + BOX_WIDTH, row + BOX_HEIGHT / 2)
    end: tuple[float, float] = (column + 1, row + BOX_HEIGHT / 2)
    if column + 1 == COLUMNS:
        between = (row + BOX_HEIGHT + row + 1) / 2
        corners = [(middle, row + BOX_HEIGHT), (middle, between), (BOX_WIDTH / 2, between)]
        axes.plot(*zip(*corners, strict=True), color=GREY, linewidth=1.2)
        start, end = corners[-1], (BOX_WIDTH / 2, row + 1)
    style = {"arrowstyle": "-|>", "color": GREY, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)
