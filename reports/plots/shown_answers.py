"""The answers of a run to held-out tasks as grids: input, target, and answer with its wrong cells crossed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from etrm.data import Grid
from etrm.investigation.records import Cells, ShownAnswer
from reports.grid_drawing import format_size
from reports.plots.prediction_drawing import RIGHT, WRONG, GridPanel, PanelRow, draw_rows
from reports.runs.predictions import find_wrong_cells

TITLE = "Answers to held-out tasks"
CAPTION = (
    "The first answers of the first run under test: input, target and answer. Crossed cells are wrong. Answers of one "
    "colour, or without a grid, show that the model has not learned to read the demonstrations."
)


def draw_answers(answers: Sequence[ShownAnswer]) -> bytes:
    """Draw a row per answer as PNG."""
    return draw_rows(TITLE, [_make_row(answer) for answer in answers])


def _make_row(answer: ShownAnswer) -> PanelRow:
    grids = {name: _to_grid(getattr(answer, name)) for name in ("input", "target", "answer")}
    wrong = find_wrong_cells(grids["answer"], grids["target"])
    panels = [
        GridPanel(
            f"{name} {format_size(grid)}" if grid.size else f"{name}: none",
            grid,
            wrong if name == "answer" else None,
        )
        for name, grid in grids.items()
    ]
    words = [f"{answer.task} test {answer.query}", "solved" if answer.solved else "not solved"]
    return PanelRow(words, RIGHT if answer.solved else WRONG, panels)


def _to_grid(cells: Cells) -> Grid:
    return np.array(cells, np.uint8) if cells else np.zeros((0, 0), np.uint8)
