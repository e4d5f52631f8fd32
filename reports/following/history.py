"""What a run has logged so far, as curves."""

from __future__ import annotations

import math
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reports.following.tail import Line, Tail

WINDOW = 25
"""Steps that a smoothed value is the mean of; a tenth of the steps where there are fewer than ten windows."""

RECENT = 50
"""Steps that the present speed is the mean of."""

LOWER_IS_BETTER = frozenset({"loss", "lm_loss", "q_halt_loss", "kl"})


class Curve:
    """One logged quantity: its steps and its values; steps without a finite value are left out.

    One that stands in a history has a point at the least.
    """

    def __init__(self) -> None:
        self._steps = array("q")
        self._values = array("d")

    def add(self, step: int, value: float) -> None:
        """Append a point."""
        self._steps.append(step)
        self._values.append(value)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """(n,) steps."""
        return np.array(self._steps, dtype=np.int64)

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """(n,) values."""
        return np.array(self._values, dtype=np.float64)

    def smoothed(self) -> npt.NDArray[np.float64]:
        """Means over :data:`WINDOW` neighbouring points, one for each place of the window."""
        values = self.values
        window = max(1, min(WINDOW, len(values) // 10))
        return np.convolve(values, np.ones(window), mode="valid") / window


class History:
    """The metrics and the timing of a run folder, read on as they grow."""

    def __init__(self, folder: Path) -> None:
        self._metrics, self._timing = Tail(folder / "metrics.jsonl"), Tail(folder / "timing.jsonl")
        self.curves: dict[str, Curve] = {}
        self.step = 0
        """The last logged step."""
        self.seconds = array("d")
        """Of every step that was done, those done again after a resume among them."""

    def update(self) -> None:
        """Read what has come."""
        metrics, timing = self._metrics.read(), self._timing.read()
        if metrics.restarted:
            self.curves, self.step = {}, 0
        for line in metrics.lines:
            self._add(line)
        if timing.restarted:
            self.seconds = array("d")
        self.seconds.extend(line["seconds"] for line in timing.lines if is_number(line.get("seconds")))

    def _add(self, line: Line) -> None:
        self.step = line["step"]
        for key, value in line.items():
            if key != "step" and is_number(value):
                self.curves.setdefault(key, Curve()).add(self.step, value)

    @property
    def broken(self) -> list[int]:
        """Numbers of the lines of metrics.jsonl that hold no record."""
        return self._metrics.broken

    def last(self, key: str) -> float | None:
        """The mean of a quantity over its last steps; None where it was never logged."""
        return float(self.curves[key].smoothed()[-1]) if key in self.curves else None

    def best(self, key: str) -> float | None:
        """The best of the smoothed values of a quantity: the lowest loss, the highest of anything else."""
        if key not in self.curves:
            return None
        smoothed = self.curves[key].smoothed()
        return float(smoothed.min() if key in LOWER_IS_BETTER else smoothed.max())

    @property
    def wall_s(self) -> float:
        """Seconds spent in steps by all the processes that worked on the run."""
        return math.fsum(self.seconds)

    @property
    def steps_per_s(self) -> float | None:
        """Of the last :data:`RECENT` steps; None before the first."""
        recent = self.seconds[-RECENT:]
        return len(recent) / math.fsum(recent) if recent and math.fsum(recent) > 0 else None

    @property
    def samples_per_s(self) -> float | None:
        """Rows that went through a step, per second."""
        rows = self.curves["rows"].values[-RECENT:] if "rows" in self.curves else ()
        return self.steps_per_s * float(np.mean(rows)) if self.steps_per_s and len(rows) else None


def is_number(value: Any) -> bool:
    """A finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
