"""Follows a module's output on a fixed probe batch; tells slow drift from spikes, each with its steps.

Definitions: docs/diagnostics.md, "Drift". Because the probe batch is fixed, only the weights can move its
output. Shapes: B samples, T tokens, D channels; (B, D) is read as T = 1. The unit of every distance is the
*reference spread*: the root mean square, over channels, of the standard deviation over the B·T rows in the
reference window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diagnostics import causes
from diagnostics.causes import Cause
from diagnostics.errors import InvalidValue

_MAD_TO_STD = 1.4826  # of a normal distribution
_NORMAL_QUANTILES = ((0.5, 0.6745), (0.75, 1.1503), (0.9, 1.6449))  # of the absolute value of a normal
_QUANTILES = 64  # per projection: what is kept of a distribution


@dataclass(frozen=True)
class DriftRecord:
    """One probe. Distances are in reference spreads; None while the reference window fills, where the
    reference has no spread, and where the output is not finite.
    """

    step: int
    finite: bool
    shift: float | None
    """Root mean square over channels of (channel mean - reference mean)."""
    spread_ratio: float | None
    """Root mean square spread now over the reference spread; no unit."""
    turn: float | None
    """1 - cosine to the last probe, flattened, in [0, 2]; None at the first probe and for a zero output."""
    wasserstein: float | None
    """Sliced Wasserstein-1 distance to the reference, averaged over fixed random directions."""
    movement: float | None
    """The caller's measure of how far the decoder has moved since the reference, in the caller's unit."""

    @property
    def shift_per_movement(self) -> float | None:
        """shift / movement: drift per unit of decoder movement; None where either is missing or that is 0."""
        return None if self.shift is None or not self.movement else self.shift / self.movement


@dataclass(frozen=True)
class DriftEvent:
    """A stretch of steps in which the output left its reference.

    `size` is the largest departure and `threshold` what it had to exceed, both in the unit of the series
    (reference spreads for a DriftProbe). A drift runs from the last probe at its old level to the first
    within a twentieth of its furthest; a spike covers the probes that stand out. A drift is `under_way` where
    nothing shows that the output was steady before it: at no place in it is the pace from there on three times
    that of the five probes before. Where there is one, the drift begins there.
    """

    kind: Literal["drift", "spike"]
    first_step: int
    last_step: int
    size: float
    threshold: float
    under_way: bool = False


@dataclass(frozen=True)
class _Summary:
    mean: Tensor  # (D,)
    variance: Tensor  # (D,)
    quantiles: Tensor  # (Q, P)


class DriftProbe:
    """Records how far an output on a fixed probe batch has moved; keeps small statistics and the last probe.

    `reference_window`: the first probes, whose average is the reference. 5 averages out the jitter of single
    optimiser steps and ends early enough for a drift to start after it; begin feeding after the warm-up.
    `min_size`: departures below it are no event, however regular. 1 reference spread: the average row then
    sits where the edge of the reference distribution was, which a decoder tuned to the reference must notice;
    small encoders that trained well for 600 steps from a random start ended 0.3 to 0.65 away.
    `noise`: an event must also exceed this many robust standard deviations; see `robust_spikes`.
    `projections`: random directions of the Wasserstein distance, drawn from an own generator with `seed`; the
    global generator is never touched.
    Raises ValueError for a window or a number of projections below 1, or a negative threshold.
    """

    def __init__(
        self,
        reference_window: int = 5,
        *,
        min_size: float = 1.0,
        noise: float = 12.0,
        projections: int = 32,
        seed: int = 0,
    ) -> None:
        if reference_window < 1 or projections < 1:
            raise InvalidValue(
                "drift.count-below-1",
                "reference_window and projections are at least 1, found {window} and {projections}",
                window=reference_window,
                projections=projections,
            )
        if min_size < 0 or noise < 0:
            raise InvalidValue(
                "drift.negative-threshold",
                "min_size and noise are not negative, found {min_size} and {noise}",
                min_size=min_size,
                noise=noise,
            )
        self.records: list[DriftRecord] = []
        self._window = reference_window
        self._min_size = min_size
        self._noise = noise
        self._projections = projections
        self._seed = seed
        self._directions: Tensor | None = None  # (D, P), unit columns
        self._pending: list[_Summary] = []
        self._reference: _Summary | None = None
        self._shape: torch.Size | None = None
        self._last: Tensor | None = None

    def add(self, step: int, output: Tensor, movement: float | None = None) -> DriftRecord:
        """Record the output (B, T, D) or (B, D) at a step, and return the record.

        `movement`: how far the decoder has moved since the reference, if known. An output with NaN or
        infinite elements is recorded as not finite and otherwise passed over. Raises ValueError where steps
        do not increase or the shape changes: a probe batch is fixed.
        """
        self._check(step, output)
        rows = output.detach().cpu().double()
        finite = bool(torch.isfinite(rows).all())
        record = self._measure(step, rows, movement) if finite else _unmeasured(step, movement)
        self.records.append(record)
        return record

    @property
    def blocked(self) -> Cause | None:
        """Why `events` finds nothing yet whatever the output does, or None where it looks."""
        if self._reference is None:
            return causes.REFERENCE_INCOMPLETE.of(probes=len(self._pending), window=self._window)
        if self._spread() is None:
            return causes.REFERENCE_WITHOUT_SPREAD
        measured = sum(record.wasserstein is not None for record in self.records)
        return causes.FEW_PROBES if measured < _FEWEST else None

    def events(self) -> list[DriftEvent]:
        """The drifts and spikes of the Wasserstein series, in order of their first step.

        That distance sees shifts, changes of spread and of shape alike. Empty where `blocked` gives a
        reason.
        """
        measured = [(r.step, r.wasserstein) for r in self.records if r.wasserstein is not None]
        return series_events(
            [step for step, _ in measured],
            [value for _, value in measured],
            min_size=self._min_size,
            noise=self._noise,
        )

    def _check(self, step: int, output: Tensor) -> None:
        if output.dim() not in (2, 3) or output.numel() == 0:
            raise InvalidValue(
                "drift.output-shape",
                "an output has shape (B, T, D) or (B, D), not empty; found {got}",
                got=tuple(output.shape),
            )
        if self._shape is not None and output.shape != self._shape:
            raise InvalidValue(
                "drift.shape-changed",
                "a probe batch is fixed: expected shape {expected}, found {got}",
                expected=tuple(self._shape),
                got=tuple(output.shape),
            )
        if self.records and step <= self.records[-1].step:
            raise InvalidValue(
                "drift.step-not-later",
                "steps increase: found {got} after {last}",
                got=step,
                last=self.records[-1].step,
            )
        self._shape = output.shape

    def _measure(self, step: int, output: Tensor, movement: float | None) -> DriftRecord:
        turn = None if self._last is None else _one_minus_cosine(self._last, output)
        self._last = output.clone()
        summary = self._summarise(output.flatten(0, -2))
        self._learn(summary)
        spread = self._spread()
        if self._reference is None or spread is None:
            return DriftRecord(step, True, None, None, turn, None, movement)
        return DriftRecord(
            step=step,
            finite=True,
            shift=float((summary.mean - self._reference.mean).square().mean().sqrt()) / spread,
            spread_ratio=float(summary.variance.mean().sqrt()) / spread,
            turn=turn,
            wasserstein=self._wasserstein(summary, self._reference) / spread,
            movement=movement,
        )

    def _summarise(self, rows: Tensor) -> _Summary:
        if self._directions is None:
            generator = torch.Generator().manual_seed(self._seed)
            directions = torch.randn(
                rows.shape[1], self._projections, generator=generator, dtype=torch.float64
            )
            self._directions = directions / directions.norm(dim=0)
        ordered = (rows @ self._directions).sort(dim=0).values
        levels = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
        picks = (levels * len(rows)).long().clamp(max=len(rows) - 1)
        shifted = rows - rows[0]  # equal rows then have a variance of exactly 0
        return _Summary(rows.mean(dim=0), shifted.var(dim=0, unbiased=False), ordered[picks])

    def _learn(self, summary: _Summary) -> None:
        """Average the first probes; averaged quantiles are the Wasserstein mean on a line."""
        if self._reference is not None:
            return
        self._pending.append(summary)
        if len(self._pending) == self._window:
            self._reference = _Summary(
                torch.stack([s.mean for s in self._pending]).mean(dim=0),
                torch.stack([s.variance for s in self._pending]).mean(dim=0),
                torch.stack([s.quantiles for s in self._pending]).mean(dim=0),
            )
            self._pending = []

    def _spread(self) -> float | None:
        spread = 0.0 if self._reference is None else float(self._reference.variance.mean().sqrt())
        return spread if spread > 0 else None

    @staticmethod
    def _wasserstein(now: _Summary, reference: _Summary) -> float:
        return float((now.quantiles - reference.quantiles).abs().mean())


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
            "drift.lengths-differ",
            "one step per value is needed, found {steps} and {values}",
            steps=len(steps),
            values=len(values),
        )
    if not all(math.isfinite(v) for v in values):
        raise InvalidValue(
            "drift.not-finite", "a series of finite values is needed, found NaN or infinite ones"
        )
    if len(values) < _FEWEST:
        return []
    x = torch.tensor(values, dtype=torch.float64)
    found = [*_drifts(steps, x, min_size, noise), *_spikes(steps, x, min_size, noise)]
    return sorted(found, key=lambda event: (event.first_step, event.kind))


def robust_spikes(values: Sequence[float], *, threshold: float = 12.0, window: int = 15) -> list[int]:
    """Indices of the values that stand out of their surroundings, by median and MAD.

    A value's residual is its distance to the running median or to the running Theil-Sen line (median of
    pairwise slopes), whichever is nearer: a step or a ramp is no spike. The residual must exceed `threshold`
    robust standard deviations, the largest of four: 1.4826 × the median absolute residual (MAD), the 75 %
    quantile / 1.1503, the 90 % quantile / 1.6449, and the MAD within the `window`. They agree for normal noise;
    where most residuals are next to nothing the MAD alone would call the rest spikes. A plain z-score of a
    share p of equal spikes cannot exceed sqrt((1 - p)/p), 4.9 for 4 %; this has no such bound for shares up to
    9 %, and finds none beyond. Where nine in ten residuals are exactly 0, any departure above a millionth of
    the mean size is a spike. The first values are also compared with what the next two foretell, so that a
    fast start is none.

    The default of 12: a normal tail never gets there, a Laplace tail once in 100 000 values, and a spike
    worth the name (40 times the usual) stands far beyond. Series of n values are given 1 + 20/n times as
    much, since the scale of a few values is often far too small by chance. Skewed series, such as gradient
    sizes, belong in logs.

    NaN and infinite values are always returned. With fewer than eight finite values only those are.
    Raises ValueError for a window below 3 or a negative threshold.
    """
    if window < 3 or threshold < 0:
        raise InvalidValue(
            "drift.spike-settings",
            "window is at least 3 and threshold not negative, found {window} and {threshold}",
            window=window,
            threshold=threshold,
        )
    finite = [i for i, v in enumerate(values) if math.isfinite(v)]
    spikes = {i for i, v in enumerate(values) if not math.isfinite(v)}
    if len(finite) >= _FEWEST:
        x = torch.tensor([values[i] for i in finite], dtype=torch.float64)
        residual, limit = _residuals(x, threshold, window)
        spikes.update(finite[int(i)] for i in (residual > limit).nonzero().flatten())
    return sorted(spikes)


_FEWEST = 8  # values below which a median absolute deviation is itself mostly noise
_LONGEST_SPIKE = 3
_REST = 5  # values over which the pace before a drift is taken, as many as make the reference
_FASTER = 3


def _unmeasured(step: int, movement: float | None) -> DriftRecord:
    return DriftRecord(step, False, None, None, None, None, movement)


def _one_minus_cosine(a: Tensor, b: Tensor) -> float | None:
    a, b = a.flatten(), b.flatten()
    lengths = float(a.norm()), float(b.norm())
    if not all(lengths):
        return None
    # half the squared distance of the unit vectors: exact 0 for equal ones, no cancellation near it
    return float((a / lengths[0] - b / lengths[1]).square().sum()) / 2


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
    # a fast transient at the start, as losses have, is no spike: the next two values foretell it
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
