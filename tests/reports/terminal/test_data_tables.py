"""Tables of task sets, and the stages of a curriculum in words."""

from __future__ import annotations

import io

from rich.console import Console

from etrm.config import CurriculumStage
from etrm.data import describe, load_tasks
from reports.terminal.data_tables import selection_lines, stage_lines, summary_table
from tests.errors import assert_holds


def test_a_line_per_stage() -> None:
    first, second = stage_lines((CurriculumStage(5, 60), CurriculumStage(10, 140)), (48, 130))
    assert_holds(first, 60, 48, "1 to 5")
    assert_holds(second, 140, 130, "6 to 10")
    assert stage_lines((), (3,)) == []


def test_tasks_that_settings_leave_out_are_counted() -> None:
    tasks = load_tasks("arc-agi-1", "training", 5, 7)
    [line] = selection_lines(tasks, 5, 7, "data")
    assert_holds(line, "7 of the 400", "data.max_side 5", "data.max_tasks 7")
    assert selection_lines(load_tasks("arc-agi-1"), 30, None, "data") == []
    assert selection_lines(load_tasks("rules", "training", 5, 7), 5, 7, "data") == []


def test_tasks_are_counted_in_scales_of_five() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    found = describe(load_tasks("arc-agi-1", "training", 12, None))
    console.print(summary_table(found))
    counts = [sum(n for side, n in found.demo_sides.items() if low < side <= low + 5) for low in (0, 5, 10)]
    assert_holds(
        console.export_text(),
        *(f"{low + 1} to {low + 5}: {n}" for low, n in zip((0, 5, 10), counts, strict=True)),
    )
