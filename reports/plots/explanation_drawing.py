"""Draw the answers of the symbolic solver with the formulas behind them, as PNG."""

from __future__ import annotations

import textwrap

from etrm.training.scoring.explain_run import ExplainedQuery, ExplainedTask
from reports.plots.figures import GREY
from reports.plots.prediction_drawing import DEMO_SCALE, RIGHT, WRONG, GridPanel, PanelRow, draw_rows
from reports.runs.explanations import describe_outcome, describe_rules, describe_task

WORDS_WIDTH = 26
"""Characters of a line next to the grids."""


def draw_png(explained: ExplainedTask) -> bytes:
    """Return the demonstrations, then a row per query: formulas, guard, answer and true output."""
    demos = [
        GridPanel(f"demo {number} {side}", grid)
        for number, pair in enumerate(explained.task.demos)
        for side, grid in zip(("in", "out"), pair.grids, strict=True)
    ]
    rows = [PanelRow(["demonstrations"], GREY, demos, DEMO_SCALE)]
    rows += [_make_row(number, query) for number, query in enumerate(explained.queries)]
    return draw_rows(describe_task(explained), rows)


def _make_row(number: int, query: ExplainedQuery) -> PanelRow:
    words = [line for text in describe_rules(query) for line in textwrap.wrap(text, WORDS_WIDTH)]
    guarded = query.guarded
    panels = [
        GridPanel("query" if guarded is None else "query, guard", query.pair.input, guarded),
        GridPanel("answer", query.rules[0].answer, query.wrong),
    ]
    if query.pair.output is not None:
        panels.append(GridPanel("true output", query.pair.output))
    colour = {True: RIGHT, False: WRONG, None: GREY}[query.solved]
    return PanelRow([f"test {number}", describe_outcome(query), *words], colour, panels)
