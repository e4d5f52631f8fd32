"""Follows a module's output on a fixed probe batch; distinguishes slow drift from spikes, each with its steps.

The fields of `DriftRecord` define each distance. Because the probe batch is fixed, only the weights can move its
output. Shapes: B samples, T tokens, D channels; (B, D) is read as T = 1. The unit of every distance is the
*reference spread*: the root mean square, over channels, of the standard deviation over the B·T rows in the
reference window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.causes import Cause
from diagnostics.errors import InvalidValue
from diagnostics.measures.series import FEWEST, DriftEvent, series_events

REFERENCE_INCOMPLETE = Cause("reference-incomplete", "the reference has {probes} of {window} probes")
REFERENCE_WITHOUT_SPREAD = Cause(
    "reference-without-spread",
    "the rows of the reference are all equal, so distances cannot be measured relative to their spread",
)
FEW_PROBES = Cause("few-probes", "fewer than eight probes were measured against the reference")
"""Why a probe finds nothing yet: causes of RULE001."""

_QUANTILES = 64
"""Quantiles kept of each projection: steps of 1.6 %, far finer than the spread that a drift must exceed."""


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
class _Summary:
    mean: Tensor  # (D,)
    variance: Tensor  # (D,)
    quantiles: Tensor  # (Q, P)


class DriftProbe:
    """Records how far an output on a fixed probe batch has moved; keeps small statistics and the last probe.

    `reference_window`: the first probes, whose average is the reference. 5 averages out the jitter of single
    optimiser steps and ends early enough for a drift to start after it; begin feeding after the warm-up.
    `min_size`: departures below it do not count, however regular they are. 1 reference spread: the average row then
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

        `movement`: relative movement of the decoder since the reference, if known. An output with NaN or
        infinite elements is recorded as not finite and otherwise ignored. Raises ValueError where steps
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
        """Why `events` cannot find anything yet, None if it can."""
        if self._reference is None:
            return REFERENCE_INCOMPLETE.of(probes=len(self._pending), window=self._window)
        if self._spread() is None:
            return REFERENCE_WITHOUT_SPREAD
        measured = sum(record.wasserstein is not None for record in self.records)
        return FEW_PROBES if measured < FEWEST else None

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


def _unmeasured(step: int, movement: float | None) -> DriftRecord:
    return DriftRecord(step, False, None, None, None, None, movement)


def _one_minus_cosine(a: Tensor, b: Tensor) -> float | None:
    a, b = a.flatten(), b.flatten()
    lengths = float(a.norm()), float(b.norm())
    if not all(lengths):
        return None
    # half the squared distance of the unit vectors: exact 0 for equal ones, no cancellation near it
    return float((a / lengths[0] - b / lengths[1]).square().sum()) / 2
