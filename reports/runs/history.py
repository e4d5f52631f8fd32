"""The metrics that a run has logged so far, as a table that grows."""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from etrm.checkpoints.run_table import is_number, read_metrics_table
from reports.runs.json_lines_tail import Tail

WINDOW = 25
"""The number of steps over which a value is smoothed; a tenth of the steps if there are fewer than ten windows."""

RECENT = 50
"""The number of steps over which the current speed is averaged."""

LOWER_IS_BETTER = frozenset({"loss", "lm_loss", "q_halt_loss", "kl"})


def smooth(curve: pd.Series) -> npt.NDArray[np.float64]:
    """Return the means over :data:`WINDOW` neighbouring values, one for each position of the window.

    Args:
        curve: the (n,) values, without NaN; n is at least 1.
    """
    values = curve.to_numpy()
    window = max(1, min(WINDOW, len(values) // 10))
    return np.convolve(values, np.ones(window), mode="valid") / window


class History:
    """The metrics and the timing of a run folder; new lines are read as they are written."""

    def __init__(self, folder: Path) -> None:
        self._metrics, self._timing = Tail(folder / "metrics.jsonl"), Tail(folder / "timing.jsonl")
        self.table = read_metrics_table([])
        """The metrics, see :func:`etrm.checkpoints.run_table.read_metrics_table`."""
        self.step = 0
        """The last logged step."""
        self.seconds = array("d")
        """The duration of every step in seconds, including steps that were repeated after a resume."""
        self.loading = array("d")
        """The part of those durations in which a step waited for its rows; of steps that recorded it."""
        self.padded = array("d")
        """The share of padding in the positions of every step that recorded it."""

    def update(self) -> None:
        """Read the new lines."""
        metrics, timing = self._metrics.read(), self._timing.read()
        if metrics.restarted:
            self.table, self.step = read_metrics_table([]), 0
        if metrics.lines:
            new = read_metrics_table(metrics.lines)
            self.table = pd.concat((self.table, new)) if len(self.table) else new
            self.step = metrics.lines[-1]["step"]
        if timing.restarted:
            self.seconds, self.loading, self.padded = array("d"), array("d"), array("d")
        for kept, name in (
            (self.seconds, "seconds"),
            (self.loading, "loading_seconds"),
            (self.padded, "padded_share"),
        ):
            kept.extend(line[name] for line in timing.lines if is_number(line.get(name)))

    def curve(self, key: str) -> pd.Series:
        """Return the finite values of a column of the table, by step."""
        return self.table[key].dropna()

    @property
    def broken(self) -> list[int]:
        """The numbers of the lines of metrics.jsonl that are not records."""
        return self._metrics.broken

    def last(self, key: str) -> float | None:
        """Return the mean of a quantity over its last steps; None if it was never logged."""
        return float(smooth(self.curve(key))[-1]) if key in self.table else None

    def best(self, key: str) -> float | None:
        """Return the best smoothed value of a quantity: the lowest for a loss, the highest for anything else."""
        if key not in self.table:
            return None
        means = smooth(self.curve(key))
        return float(means.min() if key in LOWER_IS_BETTER else means.max())

    @property
    def wall_s(self) -> float:
        """The seconds that all processes of the run spent in steps."""
        return math.fsum(self.seconds)

    @property
    def steps_per_s(self) -> float | None:
        """The steps per second over the last :data:`RECENT` steps; None before the first step."""
        recent = self.seconds[-RECENT:]
        return len(recent) / math.fsum(recent) if recent and math.fsum(recent) > 0 else None

    @property
    def samples_per_s(self) -> float | None:
        """The samples per second over the same steps."""
        if not self.steps_per_s or "rows" not in self.table:
            return None
        return self.steps_per_s * float(np.mean(self.curve("rows").to_numpy()[-RECENT:]))
