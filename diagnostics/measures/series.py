"""Drifts and spikes in any series of numbers, distinguished by their medians, each with its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diagnostics.errors import InvalidValue

_MAD_TO_STD = 1.4826  # of a normal distribution
_NORMAL_QUANTILES = ((0.5, 0.6745), (0.75, 1.1503), (0.9, 1.6449))  # of the absolute value of a normal


@dataclass(frozen=True)
class DriftEvent:
    """A range of steps in which the output left its reference.

    `size` is the largest departure and `threshold` what it had to exceed, both in the unit of the series
    (reference spreads for a DriftProbe). A drift runs from the last probe at its old level to the first
    within a twentieth of its furthest; a spike covers the outlying probes. A drift is `under_way` where
    nothing shows that the output was steady before it: at no place in it is the pace from there on three times
    that of the five probes before. Where there is one, the drift begins there.
    """

    kind: Literal["drift", "spike"]
    first_step: int
    last_step: int
    size: float
    threshold: float
    under_way: bool = False


def series_events(
    steps: Sequence[int], values: Sequence[float], *, min_size: float = 0.0, noise: float = 12.0
) -> list[DriftEvent]:
    """Find the drifts and spikes of any series of finite values, in order of their first step.

    The level before is the median of the first five values. A *spike* is up to three values in a row that
    `robust_spikes` picks out and that depart by `min_size`, in either direction. A *drift* is at least four
    values in a row whose running median of seven (blind to three odd values) departs from the level by both
    `min_size` and `noise` robust standard deviations, the latter taken from first differences so that the
    drift itself does not count as noise. With fewer than eight values nothing is found. For "which came
    first" compare the first steps of two series' events. Raises ValueError for different lengths or values
    that are not finite.
    """
    if len(steps) != len(values):
        raise InvalidValue(
            "series.lengths-differ",
            "one step per value is needed, found {steps} and {values}",
            steps=len(steps),
            values=len(values),
        )
    if not all(math.isfinite(v) for v in values):
        raise InvalidValue(
            "series.not-finite", "a series of finite values is needed, found NaN or infinite ones"
        )
    if len(values) < FEWEST:
        return []
    x = torch.tensor(values, dtype=torch.float64)
    found = [*_drifts(steps, x, min_size, noise), *_spikes(steps, x, min_size, noise)]
    return sorted(found, key=lambda event: (event.first_step, event.kind))


def robust_spikes(values: Sequence[float], *, threshold: float = 12.0, window: int = 15) -> list[int]:
    """Indices of the values that are outliers in their neighbourhood, by median and MAD.

    A value's residual is its distance to the running median or to the running Theil-Sen line (median of
    pairwise slopes), whichever is nearer: a step or a ramp is not a spike. The residual must exceed `threshold`
    robust standard deviations, the largest of four: 1.4826 × the median absolute residual (MAD), the 75 %
    quantile / 1.1503, the 90 % quantile / 1.6449, and the MAD within the `window`. They agree for normal noise;
    where most residuals are next to nothing the MAD alone would call the rest spikes. A plain z-score of a
    share p of equal spikes cannot exceed sqrt((1 - p)/p), 4.9 for 4 %; this has no such bound for shares up to
    9 %, and finds none beyond. Where nine in ten residuals are exactly 0, any departure above a millionth of
    the mean size is a spike. The first values are also compared with an extrapolation of the next two, so that a
    fast start is none.

    The default of 12: a normal tail never gets there, a Laplace tail once in 100 000 values, and a spike
    of 40 times the usual is far beyond. For series of n values the threshold is 1 + 20/n times as
    much, since the scale of a few values is often far too small by chance. Skewed series, such as gradient
    sizes, belong in logs.

    NaN and infinite values are always returned. With fewer than eight finite values only those are.
    Raises ValueError for a window below 3 or a negative threshold.
    """
    if window < 3 or threshold < 0:
        raise InvalidValue(
            "series.spike-settings",
            "window is at least 3 and threshold not negative, found {window} and {threshold}",
            window=window,
            threshold=threshold,
        )
    finite = [i for i, v in enumerate(values) if math.isfinite(v)]
    spikes = {i for i, v in enumerate(values) if not math.isfinite(v)}
    if len(finite) >= FEWEST:
        x = torch.tensor([values[i] for i in finite], dtype=torch.float64)
        residual, limit = _residuals(x, threshold, window)
        spikes.update(finite[int(i)] for i in (residual > limit).nonzero().flatten())
    return sorted(spikes)


FEWEST = 8  # values below which a median absolute deviation is itself mostly noise
_LONGEST_SPIKE = 3  # values: a running median of seven ignores three odd ones, so longer runs are drifts
_REST = 5  # values over which the pace before a drift is taken, as many as make the reference
_FASTER = 3  # times the pace before: noise in the means of five steps changes a pace by a factor of 2


def _median(x: Tensor) -> Tensor:
    """Median over the last dimension, the middle two averaged (torch.median takes the lower)."""
    ordered, n = x.sort(dim=-1).values, x.shape[-1]
    return (ordered[..., (n - 1) // 2] + ordered[..., n // 2]) / 2


def _windows(n: int, width: int) -> Tensor:
    """Indices (n, width) of each value's window: centred, and moved inside at both ends."""
    width = min(width, n)
    first = (torch.arange(n) - width // 2).clamp(0, n - width)
    return first[:, None] + torch.arange(width)


def _trend(x: Tensor, windows: Tensor) -> Tensor:
    """Theil-Sen line of each window, read at the window's own value."""
    inside = x[windows]
    left, right = torch.combinations(torch.arange(windows.shape[1])).unbind(dim=1)
    slope = _median((inside[:, right] - inside[:, left]) / (right - left))
    offset = _median(inside - slope[:, None] * windows)
    return offset + slope * torch.arange(len(x))


def _residuals(x: Tensor, threshold: float, width: int) -> tuple[Tensor, Tensor]:
    """Distances (n,) from the surroundings and the limits (n,) that they must exceed."""
    windows = _windows(len(x), width)
    plain = (x - _median(x[windows])).abs()  # the scale's own: the nearer of two would understate it
    residual = torch.minimum(plain, (x - _trend(x, windows)).abs())
    # a fast transient at the start, as losses have, is not a spike: the next two values predict it
    start = min(width // 2, len(x) - 2)
    foretold = 2 * x[1 : start + 1] - x[2 : start + 2]
    residual[:start] = torch.minimum(residual[:start], (x[:start] - foretold).abs())
    scale = torch.maximum(_overall_scale(plain), _MAD_TO_STD * _median(plain[windows]))
    threshold *= 1 + 20 / len(x)  # the scale of a few values is often far too small by chance
    return residual, torch.maximum(threshold * scale, 1e-6 * x.abs().mean())  # below: rounding


def _overall_scale(residual: Tensor) -> Tensor:
    """Largest standard deviation that a quantile suggests; 0 where 9 in 10 residuals are 0."""
    ordered = residual.sort().values
    return torch.stack([ordered[int(q * (len(ordered) - 1))] / z for q, z in _NORMAL_QUANTILES]).max()


def _runs(flags: Tensor) -> list[tuple[int, int]]:
    """First and last index of every unbroken run of True."""
    runs: list[tuple[int, int]] = []
    for i in flags.nonzero().flatten().tolist():
        if runs and runs[-1][1] == i - 1:
            runs[-1] = (runs[-1][0], i)
        else:
            runs.append((i, i))
    return runs


def _spikes(steps: Sequence[int], x: Tensor, min_size: float, noise: float) -> list[DriftEvent]:
    residual, limit = _residuals(x, noise, 15)
    limit = limit.clamp(min=min_size)
    events = []
    for first, last in _runs(residual > limit):
        if last - first < _LONGEST_SPIKE:
            peak = first + int(residual[first : last + 1].argmax())
            events.append(
                DriftEvent("spike", steps[first], steps[last], float(residual[peak]), float(limit[peak]))
            )
    return events


def _drifts(steps: Sequence[int], x: Tensor, min_size: float, noise: float) -> list[DriftEvent]:
    level = _median(x[:5])
    departure = (_median(x[_windows(len(x), 7)]) - level).abs()
    difference = x.diff()
    jitter = float(_MAD_TO_STD * _median((difference - _median(difference)).abs())) / math.sqrt(2)
    limit = max(min_size, noise * (1 + 20 / len(x)) * jitter, 1e-6 * float(x.abs().mean()))
    events = []
    for first, last in _runs(departure > limit):
        if last - first < _LONGEST_SPIKE:
            continue
        peak = float(departure[first : last + 1].max())
        slack = max(0.05 * peak, 2 * jitter)
        start = first
        while start > 0 and departure[start] > slack:
            start -= 1
        end = first + int((departure[first : last + 1] >= peak - slack).nonzero()[0])
        onset = _onset(x, start, end, min_size)
        begun = start if onset is None else onset
        events.append(DriftEvent("drift", steps[begun], steps[end], peak, limit, under_way=onset is None))
    return events


def _onset(x: Tensor, start: int, end: int, min_size: float) -> int | None:
    """Where a rest ends: the pace from there on is most above that of the five values before, at least three times.

    `min_size` must still be to come. Learning from a random start is fast first and slows down: it has no such place.
    """
    best = float(_FASTER)
    onset: int | None = None
    for place in range(max(start, _REST), max(end, start + 1)):
        before = abs(float(x[place] - x[place - _REST])) / _REST
        left = abs(float(x[end] - x[place]))
        faster = left / (end - place) / before if before else math.inf
        if left >= min_size and faster > best:
            best, onset = faster, place
    return onset
