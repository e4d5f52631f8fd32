"""The sizes of a batch that were tried, in the terminal."""

from __future__ import annotations

from rich.table import Table

from etrm.training.batch_size import BatchSearch, BatchTrial
from reports.text_table import make_table

COLUMNS = ("batch", "rows per second", "peak MiB", "fits")


def batch_table(found: BatchSearch) -> Table:
    """Return a table with a line for each size, ascending."""
    caption = f"a step may take {_mib(found.limit)} MiB: 90 % of the memory, as later rows may be larger"
    table = make_table(COLUMNS, right=COLUMNS[:3], caption=caption)
    for trial in sorted(found.trials, key=lambda trial: trial.rows):
        table.add_row(*_cells(trial))
    return table


def batch_line(found: BatchSearch) -> str:
    """Return the setting to use."""
    best = found.largest
    why = "the largest that fits" if found.bounded_by_memory else "the largest that was tried; it fits"
    return f"{why}: --set train.batch_size={best.rows}"


def _cells(trial: BatchTrial) -> list[str]:
    speed = "-" if trial.rows_per_second is None else f"{trial.rows_per_second:.4g}"
    return [
        str(trial.rows),
        speed,
        "-" if trial.peak is None else _mib(trial.peak),
        "yes" if trial.fits else "no",
    ]


def _mib(number: int) -> str:
    return f"{number / 2**20:.0f}"
