"""The figures of a report: frames, curves, and how logged steps become a curve."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import (
    field_serializer,
    field_validator,
)

from etrm.investigation.records import Record
from etrm.investigation.runs.loaded_run import LoadedRun


class Series(Record):
    """One curve of a figure."""

    figure: str  # figures are grouped by this key, e.g. "encoder-coverage"
    arm: str
    seed: int
    label: str  # e.g. "before clipping"
    x: tuple[float, ...]
    y: tuple[float, ...]  # NaN where a step has no value

    @field_serializer("y", when_used="json")
    def _y_out(self, values: tuple[float, ...]) -> list[float | None]:
        return [value if math.isfinite(value) else None for value in values]

    @field_validator("y", mode="before")
    @classmethod
    def _y_in(cls, values: Any) -> Any:
        return tuple(math.nan if value is None else value for value in values)


class Figure(Record):
    """A figure's frame; its curves are the series with the same key."""

    key: str
    title: str
    x_label: str
    y_label: str
    caption: str  # how to read it, in one or two sentences
    kind: Literal["lines", "heat map"] = "lines"  # a heat map has a row per label and a column per x
    y_log: bool = False
    y_range: tuple[float, float] | None = None
    lines: tuple[tuple[str, float], ...] = ()  # horizontal reference lines


def make_curve(figure: str, run: LoadedRun, points: Iterable[tuple[float, float]], label: str) -> Series:
    """A curve of a run from its (x, y) points."""
    points = list(points)
    return Series(
        figure=figure,
        arm=run.arm.name,
        seed=run.seed,
        label=label,
        x=tuple(float(x) for x, _ in points),
        y=tuple(round(float(y), 6) for _, y in points),
    )


def logged_curve(figure: str, run: LoadedRun, key: str, label: str, *, positive: bool = False) -> Series:
    """A logged quantity of a run over its steps; steps without a value are left out.

    Args:
        figure: the key of the figure.
        run: the run that logged it.
        key: name of the quantity in the log.
        label: the label of the curve in the legend.
        positive: leave out steps on which the quantity is 0, for a logarithmic axis.
    """
    points = [(m["step"], m[key]) for m in run.metrics if m.get(key) is not None]
    return make_curve(figure, run, [(x, y) for x, y in points if y or not positive], label)


def smooth(curve: Series, window: int) -> Series:
    """The curve of means over ``window`` points, fewer in a short run, so that losses of single batches can be read."""
    window = max(1, min(window, len(curve.x) // 10))
    n = len(curve.x) // window
    y = [sum(curve.y[i * window : (i + 1) * window]) / window for i in range(n)]
    x = [curve.x[(i + 1) * window - 1] for i in range(n)]
    return curve.replace(x=tuple(x), y=tuple(round(v, 6) for v in y))


def average_so_far(curve: Series) -> Series:
    """The curve whose value at each point is the mean of all points up to it."""
    means, total = [], 0.0
    for n, value in enumerate(curve.y, start=1):
        total += value
        means.append(round(total / n, 6))
    return curve.replace(y=tuple(means))
