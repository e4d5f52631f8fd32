"""Draw a curve in block characters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

EIGHTHS = " ▁▂▃▄▅▆▇█"


def bin_points(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """Return ``width`` values: means over equal intervals, or repeated values if there are fewer than ``width``."""
    if len(values) < width:
        return values[np.arange(width) * len(values) // width]
    edges = np.linspace(0, len(values), width + 1).astype(int)
    return np.add.reduceat(values, edges[:-1]) / np.diff(edges)


def draw_text_plot(values: npt.NDArray[np.float64], low: float, high: float, height: int = 1) -> list[str]:
    """Return one column per value, as lines of text from the top.

    Args:
        values: the (width,) values; values outside the limits are drawn at the limits.
        low: the value of the lowest of the ``8 * height`` levels.
        high: the value of the highest level. If it equals ``low``, the curve is drawn in the middle.
        height: the number of lines.
    """
    levels = 8 * height
    share = np.clip((values - low) / (high - low), 0, 1) if high > low else np.full(len(values), 0.5)
    filled = 1 + np.rint(share * (levels - 1)).astype(int)
    return [
        "".join(EIGHTHS[min(max(level - 8 * line, 0), 8)] for level in filled)
        for line in reversed(range(height))
    ]
