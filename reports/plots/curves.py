"""Compute what a figure shows, without drawing: groups of seeds, their means, and the limits of the axes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from etrm.investigation.evidence.figures import Figure, Series

LARGEST = 1e30
"""Larger values, NaN and infinities are gaps in a curve, because an axis that includes them would hide the others."""

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class CurveGroup:
    """The curves of one arm and label, one per seed.

    Attributes:
        name: the text in the legend.
        colour: the index of the colour.
        dash: the index of the line style.
        curves: the points of each seed; y is NaN at a gap.
    """

    name: str
    colour: int
    dash: int
    curves: tuple[Points, ...]

    @property
    def mean(self) -> Points:
        """The mean over seeds at points where every seed has a value. A seed that stopped early is never dropped."""
        return self._mean(geometric=False)

    @property
    def geometric_mean(self) -> Points:
        """The geometric mean over seeds, for a logarithmic axis."""
        return self._mean(geometric=True)

    def _mean(self, geometric: bool) -> Points:
        if len(self.curves) == 1:
            return self.curves[0]
        at: dict[float, list[float]] = defaultdict(list)
        for curve in self.curves:
            for x, y in dict(curve).items():
                at[x].append(y)
        shared = {x: ys for x, ys in at.items() if len(ys) == len(self.curves)}
        return [(x, _mean_of(shared[x], geometric)) for x in sorted(shared)]


def _mean_of(ys: Sequence[float], geometric: bool) -> float:
    if geometric:
        return math.exp(math.fsum(map(math.log, ys)) / len(ys))
    return math.fsum(ys) / len(ys)


def groups(
    figure: Figure, series: Sequence[Series], arms: Sequence[str], words: Mapping[str, str] | None = None
) -> list[CurveGroup]:
    """Return the curves of a figure, grouped by arm and label.

    If the arms share their labels, each arm has the same colour in all figures of a page, and the line style
    distinguishes the labels. If there is only one label, the line style distinguishes the arms. If each label belongs
    to one arm, every curve has its own colour and style.
    """
    found: dict[tuple[str, str], list[Points]] = defaultdict(list)
    for one in sorted((s for s in series if s.figure == figure.key), key=lambda s: s.seed):
        found[one.arm, one.label].append(_points(one, figure.y_log))
    keys = sorted(found, key=lambda key: (_position(key[0], arms), key[0], _label_position(key, series)))
    labels = list(dict.fromkeys(label for _, label in keys))
    shown = list(dict.fromkeys(arm for arm, _ in keys))
    several = len(keys) > len(shown)
    own = several and len(labels) == len(keys)
    result = []
    for i, (arm, label) in enumerate(keys):
        colour = i if own else _position(arm, arms) if arm in arms else len(arms) + shown.index(arm)
        dash = labels.index(label) if several else shown.index(arm)
        name = _name(arm, label, keys, (words or {}).get(arm, arm))
        result.append(CurveGroup(name=name, colour=colour, dash=dash, curves=tuple(found[arm, label])))
    return result


def _position(arm: str, arms: Sequence[str]) -> int:
    return list(arms).index(arm) if arm in arms else len(arms)


def _label_position(key: tuple[str, str], series: Sequence[Series]) -> int:
    return next(i for i, s in enumerate(series) if (s.arm, s.label) == key)


def _name(arm: str, label: str, keys: Sequence[tuple[str, str]], words: str) -> str:
    labels = [other for _, other in keys]
    if len(set(labels)) == len(labels) and label:
        return label
    if len(set(labels)) == 1 or not label:
        return words
    return f"{words}: {label}"


def _points(series: Series, y_log: bool) -> Points:
    pairs = zip(series.x, series.y, strict=False)
    return sorted(
        ((x, y if _drawable(y, y_log) else math.nan) for x, y in pairs if abs(x) <= LARGEST),
        key=lambda p: p[0],
    )


def _drawable(y: float, y_log: bool) -> bool:
    return abs(y) <= LARGEST and (not y_log or y >= 1 / LARGEST)


def isolated(points: Points) -> list[int]:
    """Return the indices of points without neighbours, which a line would not show."""
    empty = [True, *(math.isnan(y) for _, y in points), True]
    return [i for i in range(len(points)) if not empty[i + 1] and empty[i] and empty[i + 2]]


def y_limits(figure: Figure, values: Sequence[float]) -> tuple[float, float]:
    """Return limits that include every value and reference line, or the figure's own limits if they are usable."""
    lowest = 1 / LARGEST if figure.y_log else -LARGEST
    if figure.y_range is not None:
        low, high = figure.y_range
        if lowest <= low < high <= LARGEST:
            return low, high
    seen = [y for y in (*values, *(y for _, y in figure.lines)) if lowest <= y <= LARGEST]
    if not seen:
        return (0.1, 10.0) if figure.y_log else (0.0, 1.0)
    if figure.y_log:
        low, high = math.log10(min(seen)), math.log10(max(seen))
        pad = 0.06 * (high - low) or 0.3
        return float(10 ** (low - pad)), float(10 ** (high + pad))
    low, high = min(seen), max(seen)
    pad = 0.06 * (high - low)
    if pad <= 1e-9 * max(abs(low), abs(high)):
        pad = 0.1 * max(abs(low), abs(high)) or 0.5
    return low - pad, high + pad


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move positions so that they are in [0, 1], in the same order and, if there is room, at least ``gap`` apart."""
    order = sorted(range(len(positions)), key=lambda i: (positions[i], i))
    gap = min(gap, 1 / max(1, len(positions) - 1))
    placed: list[float] = []
    for i in order:
        placed.append(max(positions[i], placed[-1] + gap if placed else 0.0))
    limit = 1.0
    for k in range(len(placed) - 1, -1, -1):
        placed[k] = min(placed[k], limit)
        limit = placed[k] - gap
    result = [0.0] * len(positions)
    for k, i in enumerate(order):
        result[i] = placed[k]
    return result
