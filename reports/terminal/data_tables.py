"""What a task set and a store hold, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from etrm.data.check import TaskSetSummary
from etrm.data.store import Index


def summary_table(found: TaskSetSummary) -> Table:
    """The counts of a task set, and what is odd in it."""
    rows = {
        "version": found.version or "files",
        "sha-256": found.hash,
        "tasks": found.tasks,
        "test queries": found.queries,
        "demos per task": f"{found.mean_demos:.2f}",
        "leave-one-out queries": found.left_out,
        "not to be left out": ", ".join(found.not_left_out) or "none",
        "cells per grid": f"{found.mean_cells:.1f}",
        "region, mean tokens": f"{found.region.mean_tokens:.1f}",
        "region, most tokens": found.region.max_tokens,
        "outputs inside the region": f"{found.region.inside} of {found.region.answered}",
        "outside": ", ".join(found.region.outside) or "none",
        "problems": "; ".join(found.problems) or "none",
    }
    return _two_columns(f"{found.source} {found.subset}", rows)


def store_table(title: str, index: Index) -> Table:
    """What a store holds, and how much of it was a duplicate."""
    counts = index.counts
    rows = {
        "tasks": f"{counts['tasks']} of {index.source} {index.subset}",
        "data sha-256": index.data_hash,
        "augmentations": f"{index.augmentations} per task, seed {index.seed}",
        "stored": f"{counts['stored']:,} of {counts['augmented']:,} augmented tasks",
        "duplicates dropped": f"{counts['duplicates']:,} "
        f"({counts['duplicates'] / counts['augmented']:.1%}): equal grids in equal shapes",
        "size": f"{counts['bytes'] / 1e6:.1f} MB",
    }
    return _two_columns(title, rows)


def _two_columns(title: str, rows: Mapping[str, object]) -> Table:
    table = Table("what", "value", title=title, show_header=False)
    for what, value in rows.items():
        table.add_row(what, str(value))
    return table
