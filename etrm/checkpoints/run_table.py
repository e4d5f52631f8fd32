"""The metrics of a run as a pandas table: a row per step, a column per logged quantity."""

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
    """Lines of ``metrics.jsonl`` as a table.

    Args:
        records: lines, each with an integer ``step``.

    Returns:
        (steps, quantities) float64 with the index ``step`` and the columns in the order of their first appearance.
        A cell is NaN where the line has no finite number; a quantity that never has one has no column.
    """
    columns: dict[str, list[float]] = {}
    for row, record in enumerate(records):
        for key, value in record.items():
            if key != "step" and is_number(value):
                columns.setdefault(key, [math.nan] * len(records))[row] = float(value)
    steps = pd.Index([record["step"] for record in records], dtype="int64", name="step")
    return pd.DataFrame(columns, index=steps, dtype="float64")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; a truth value is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
