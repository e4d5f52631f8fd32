"""A curve in block characters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

EIGHTHS = " ▁▂▃▄▅▆▇█"


def bin_points(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """``width`` values: means over equal stretches, or each repeated where there are fewer than ``width``."""
    if len(values) < width:
        return values[np.arange(width) * len(values) // width]
    edges = np.linspace(0, len(values), width + 1).astype(int)
    return np.add.reduceat(values, edges[:-1]) / np.diff(edges)


def draw_text_plot(values: npt.NDArray[np.float64], low: float, high: float, height: int = 1) -> list[str]:
    """Columns, one for each value, as lines of text from the top.

    Args:
        values: (width,) values; what lies outside the limits is drawn at them.
        low: what the lowest of the ``8 * height`` levels stands for.
        high: what the highest stands for; a curve without any extent lies in the middle.
        height: lines.
    """
    levels = 8 * height
    share = np.clip((values - low) / (high - low), 0, 1) if high > low else np.full(len(values), 0.5)
    filled = 1 + np.rint(share * (levels - 1)).astype(int)
    return [
        "".join(EIGHTHS[min(max(level - 8 * line, 0), 8)] for level in filled)
        for line in reversed(range(height))
    ]
