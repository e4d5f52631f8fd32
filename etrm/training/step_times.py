"""How long steps take, how long they wait for their rows, and how much of their work is padding."""

from __future__ import annotations

import time


class StepTimes:
    """Sums over the steps since the last reading."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin anew: what was done since the last step belongs to none."""
        self.began = time.perf_counter()
        self.loading = 0.0
        self.positions = self.padding = 0

    def add_loading(self, seconds: float, positions: int, padding: int) -> None:
        """Add a step's wait for its rows, the positions of its batch, and those of them that are padding."""
        self.loading += seconds
        self.positions += positions
        self.padding += padding

    def mean(self, steps: int) -> dict[str, float]:
        """The logged values, as means over this number of steps."""
        return {
            "seconds": (time.perf_counter() - self.began) / steps,
            "loading_seconds": self.loading / steps,
            "padded_share": self.padding / self.positions,
        }
