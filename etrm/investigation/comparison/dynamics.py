"""The training dynamics in the logged steps of a run: rates, updates, spikes, drift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median

from etrm.investigation.evidence.table import EvidenceRow, Metric
from etrm.investigation.evidence.words import format_seeds
from etrm.investigation.records import NotMeasured, Value
from etrm.investigation.runs.loaded_run import Metrics

SPIKE = 10.0
"""A gradient norm this many times its running median is a spike; the factor of the registered prediction S3."""
WINDOW = 25
"""Steps of the running median."""
FEWEST = 5
"""Steps that a running median needs before anything is called a spike."""
MEAN = 10
"""Steps of a mean accuracy: the accuracy of one batch of few rows jumps by more than a fall."""


def measure_warmup_share(metrics: Metrics) -> float:
    """The share of the steps before the peak rate was reached, by the factors that were applied; 1 if it never was."""
    factors = [m["lr_factor"] for m in metrics]
    reached = next((i for i, factor in enumerate(factors) if factor > 1 - 1e-6), len(factors))
    return reached / len(factors)


def read_norms(metrics: Metrics) -> list[tuple[int, float]]:
    """The pairs (step, norm of all gradients before clipping) of the steps that logged one."""
    found = []
    for m in metrics:
        norm = m.get("grad_norm_before_clip")
        if norm is None:  # nothing is clipped: use the modules that were watched
            parts = [m.get(f"{module}.grad_norm_pre_clip") for module in ("encoder", "core")]
            norm = math.hypot(*(part for part in parts if part is not None)) or None
        if norm is not None:
            found.append((m["step"], norm))
    return found


def find_spikes(metrics: Metrics) -> list[int]:
    """The steps whose norm before clipping is more than ten times the median of the steps before."""
    found, before = [], list[float]()
    for step, norm in read_norms(metrics):
        if len(before) >= FEWEST and norm > SPIKE * median(before[-WINDOW:]):
            found.append(step)
        before.append(norm)
    return found


def measure_lost_accuracy(metrics: Metrics) -> float | None:
    """The distance between the last mean token accuracy of ten steps and the best; None in a run that is too short."""
    values = [m["accuracy_all"] for m in metrics if m.get("accuracy_all") is not None]
    means = [fmean(values[end - MEAN : end]) for end in range(MEAN, len(values) + 1)]
    return max(means) - means[-1] if means else None


def read_probe(metrics: Metrics, key: str) -> list[tuple[int, float]]:
    """The pairs (step, value) of a quantity of the fixed probe batch, with the random start as step 0."""
    found = []
    for m in metrics:
        for prefix, step in (("start.", 0), ("probe.", m["step"])):
            if m.get(prefix + key) is not None:
                found.append((step, m[prefix + key]))
    return found


WARMUP_SHARE = Metric(
    "dynamics.warmup-share", "share of the run before the peak rate, from the factors applied"
)
UPDATE_RATIO = Metric("dynamics.update-ratio", "update / weight ratio per step, {item}, median")
SPIKES = Metric("dynamics.spikes", "gradient norms before clipping above 10x their running median")
LOST_ACCURACY = Metric("dynamics.lost-accuracy", "token accuracy lost since the best 10 steps")
DRIFT = Metric("dynamics.drift", "drift of the context's share between the first and the last probe batch")


def make_rows(runs: Sequence[Metrics]) -> tuple[EvidenceRow, ...]:
    """Rows about the dynamics of some seeds; they show where to look, and decide nothing."""
    n = f"{format_seeds(len(runs))} x {max(map(len, runs), default=0)} steps"
    runs = [metrics for metrics in runs if metrics]

    def most(values: Sequence[float | None]) -> Value:
        known = [value for value in values if value is not None]
        return max(known) if known else NotMeasured(absent="no step logged it")

    ratios = (
        UPDATE_RATIO.row(
            most([_take_median(metrics, f"{module}.moved") for metrics in runs]),
            item=module,
            threshold="about 0.001 is usual; far above 0.01 a module forgets what it learned",
            n=n,
        )
        for module in ("encoder", "core")
    )
    return (
        WARMUP_SHARE.row(
            most([measure_warmup_share(metrics) for metrics in runs]),
            threshold="<= 0.1 is usual",
            n=n,
            note="read from the log, not from the settings; 1 where the peak rate is never reached",
        ),
        *ratios,
        SPIKES.row(
            most([len(find_spikes(metrics)) for metrics in runs]),
            threshold="0",
            n=n,
            note="median of the 25 steps before; the largest count of any seed",
        ),
        LOST_ACCURACY.row(
            most([measure_lost_accuracy(metrics) for metrics in runs]),
            threshold="> 0.1 is a fall",
            n=n,
            note="compare with the drift: where the contexts moved first, suspect them",
        ),
        DRIFT.row(
            most([_measure_drift(metrics) for metrics in runs]),
            threshold="compare with the accuracy",
            n=n,
            note="share: the part of the context's power that differs between tasks; the largest drift of any seed",
        ),
    )


def _take_median(metrics: Metrics, key: str) -> float | None:
    values = [m[key] for m in metrics if m.get(key) is not None]
    return median(values) if values else None


def _measure_drift(metrics: Metrics) -> float | None:
    shares = read_probe(metrics, "share")
    return abs(shares[-1][1] - shares[0][1]) if len(shares) > 1 else None
