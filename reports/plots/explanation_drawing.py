"""Draw the answers of the symbolic solver with the formulas behind them, as PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from etrm.training.scoring.explain_run import ExplainedQuery, ExplainedTask
from reports.plots.figures import GREY
from reports.plots.prediction_drawing import DEMO_SCALE, RIGHT, WRONG, GridPanel, PanelRow, draw_rows
from reports.runs.explanations import describe_guard, describe_outcome, describe_rules, describe_task

WORDS_WIDTH = 96
"""Characters of a line above the grids."""
WIDTH_IN = 10.5
"""Largest width of a row of demonstrations in inches, about that of a query with four grids of 10x10."""


def draw_png(explained: ExplainedTask) -> bytes:
    """Return the demonstrations, then a row per query: formulas, guard, answer and true output."""
    rows = [*_make_demo_rows(explained), *(_make_row(n, query) for n, query in enumerate(explained.queries))]
    return draw_rows(describe_task(explained), rows)


def _make_demo_rows(explained: ExplainedTask) -> Iterator[PanelRow]:
    """Make rows of demonstrations, as many in each as fit."""
    row = PanelRow(["demonstrations"], GREY, [], DEMO_SCALE)
    for number, pair in enumerate(explained.task.demos):
        sides = zip(("in", "out"), pair.grids, strict=True)
        panels = [GridPanel(f"demo {number} {side}", grid) for side, grid in sides]
        longer = PanelRow(row.words, GREY, [*row.panels, *panels], DEMO_SCALE)
        if row.panels and longer.width_in > WIDTH_IN:
            yield row
            longer = PanelRow([], GREY, panels, DEMO_SCALE)
        row = longer
    yield row


def _make_row(number: int, query: ExplainedQuery) -> PanelRow:
    heading = tuple(line for text in describe_rules(query) for line in textwrap.wrap(text, WORDS_WIDTH))
    panels = [GridPanel("query", query.pair.input)]
    if query.guard is not None:
        panels.append(GridPanel("guard, black: true", query.guard, truths=True))
    panels.append(GridPanel("answer", query.rules[0].answer, query.wrong))
    if query.pair.output is not None:
        panels.append(GridPanel("true output", query.pair.output))
    colour = {True: RIGHT, False: WRONG, None: GREY}[query.solved]
    words = [f"test {number}", describe_outcome(query), *textwrap.wrap(describe_guard(query), 28)]
    return PanelRow(words, colour, panels, heading=heading)
