"""The contents of a task set and of a store, for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.table import Table

from etrm.config import SIDE, CurriculumStage
from etrm.data import TaskSet
from etrm.data.check import TaskSetSummary
from etrm.data.store import Index
from reports.text_table import make_table

SCALE = 5
"""Difference of the sides of two scales, as in the original curriculum: sides up to 5, 10, 15."""


def summary_table(found: TaskSetSummary) -> Table:
    """Return a table of the counts of a task set and its problems."""
    rows = {
        "version": found.version or "files",
        "sha-256": found.hash,
        "tasks": found.tasks,
        "test queries": found.queries,
        "demonstrations per task": f"{found.mean_demos:.2f}",
        "leave-one-out queries": found.left_out,
        "demonstrations that cannot be left out": ", ".join(found.not_left_out) or "none",
        "tasks by largest side of their demonstrations' inputs": _count_scales(found.demo_sides),
        "cells per grid": f"{found.mean_cells:.1f}",
        "mean tokens of a region": f"{found.region.mean_tokens:.1f}",
        "most tokens of a region": found.region.max_tokens,
        "outputs inside the region": f"{found.region.inside} of {found.region.answered}",
        "outputs outside the region": ", ".join(found.region.outside) or "none",
        "problems": "; ".join(found.problems) or "none",
    }
    return _two_columns(f"{found.source} {found.subset}", rows)


def store_table(title: str, index: Index) -> Table:
    """Return a table of the contents of a store and its duplicates."""
    counts = index.counts
    rows = {
        "tasks": f"{counts['tasks']} of {index.source} {index.subset}",
        "data sha-256": index.data_hash,
        "augmentations": f"{index.augmentations} per task, seed {index.seed}",
        "stored": f"{counts['stored']:,} of {counts['augmented']:,} augmented tasks",
        "duplicates dropped": f"{counts['duplicates']:,} "
        f"({counts['duplicates'] / counts['augmented']:.1%}): the same grids in the same shapes",
        "size": f"{counts['bytes'] / 1e6:.1f} MB",
    }
    return _two_columns(title, rows)


def stage_lines(stages: Sequence[CurriculumStage], tasks: Sequence[int]) -> list[str]:
    """Return a line per stage of a curriculum: its steps, and the number of its tasks."""
    lows = [1, *(stage.max_side + 1 for stage in stages)]
    return [
        f"stage {number}: {stage.steps} steps on {count} tasks with demonstration inputs of sides {low} to "
        f"{stage.max_side}"
        for number, (stage, count, low) in enumerate(zip(stages, tasks, lows, strict=False), start=1)
    ]


def selection_lines(tasks: TaskSet, max_side: int, max_tasks: int | None, section: str) -> list[str]:
    """Return a line if the settings leave out tasks of the source, which otherwise nobody would notice.

    Args:
        tasks: the selected tasks.
        max_side: the setting ``data.max_side``.
        max_tasks: the setting ``max_tasks`` of the section.
        section: the section that selects the tasks, data or evaluate.
    """
    if tasks.found is None or len(tasks) == tasks.found:
        return []
    limits = [f"data.max_side {max_side}"] if max_side < SIDE else []
    limits += [f"{section}.max_tasks {max_tasks}"] if max_tasks is not None else []
    chosen = f" ({', '.join(limits)})" if limits else ""
    return [f"{tasks.subset} tasks: {len(tasks)} of the {tasks.found} in {tasks.source}{chosen}"]


def _count_scales(sides: Mapping[int, int]) -> str:
    """Count tasks in scales of five: ``1 to 5: 27, 6 to 10: 151``."""
    scales = Counter({-(-side // SCALE) * SCALE: 0 for side in sorted(sides)})
    for side, count in sides.items():
        scales[-(-side // SCALE) * SCALE] += count
    return ", ".join(f"{high - SCALE + 1} to {high}: {count}" for high, count in scales.items())


def _two_columns(title: str, rows: Mapping[str, object]) -> Table:
    table = make_table(("what", "value"), title=title, header=False)
    for what, value in rows.items():
        table.add_row(what, str(value))
    return table
