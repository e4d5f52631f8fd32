"""The metrics of a run as a pandas table, with a row per step and a column per logged quantity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from etrm.checkpoints.run_folder import read_metrics


def read_table(folder: Path) -> pd.DataFrame:
    """The metrics of a run folder, see `read_metrics_table`; a last line that is still being written is left out.

    Raises:
        RunFolderError: the file is damaged.
    """
    return read_metrics_table(read_metrics(folder))


def read_metrics_table(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Convert the lines of ``metrics.jsonl`` to a table.

    Args:
        records: the lines, each with an integer ``step``.

    Returns:
        A (steps, quantities) float64 table with the index ``step`` and columns in the order of their first appearance.
        A cell is NaN if its line has no finite number. A quantity without any finite number has no column.
    """
    columns: dict[str, list[float]] = {}
    for row, record in enumerate(records):
        for key, value in record.items():
            if key != "step" and is_number(value):
                columns.setdefault(key, [math.nan] * len(records))[row] = float(value)
    steps = pd.Index([record["step"] for record in records], dtype="int64", name="step")
    return pd.DataFrame(columns, index=steps, dtype="float64")


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number. Booleans do not count as numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
