"""Runs whose token accuracy falls for good, and what came before: a spike, or a drift of the contexts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from etrm.checkpoints.run_folder import read_findings, read_metrics
from etrm.investigation.comparison import dynamics
from etrm.investigation.result import Run
from etrm.training.scoring.overfit_gate import judge

BEFORE = 50
"""Steps before a fall within which a spike counts as coming before it (registered with S3)."""


@dataclass(frozen=True)
class Fall:
    """The fall of one run.

    Attributes:
        step: at which the mean accuracy was first less than half of its peak.
        spike: the last step within 50 before it whose gradient norm was ten times its running median.
        drift: the first step of a drift of the encoder's output on the fixed probe batch (DRIFT001), whenever.
    """

    step: int
    spike: int | None
    drift: int | None

    @property
    def drift_first(self) -> bool:
        """Whether the contexts drifted before the accuracy fell."""
        return self.drift is not None and self.drift < self.step


def falls(root: Path, runs: Sequence[Run]) -> list[Fall]:
    """The falls among some finished runs."""
    found = []
    for run in runs:
        metrics = read_metrics(root / run.folder)
        step = judge([m["accuracy_all"] or 0.0 for m in metrics]).fell
        if step is not None:
            spikes = [s for s in dynamics.spikes(metrics) if step - BEFORE <= s <= step]
            found.append(Fall(step, max(spikes, default=None), _drift(root / run.folder)))
    return found


def _drift(folder: Path) -> int | None:
    steps = [
        item["evidence"]["first_step"]
        for item in read_findings(folder)
        if item["rule"] == "DRIFT001" and item["module"] == "encoder"
    ]
    return min(steps, default=None)


def drifts_in_words(found: Sequence[Fall], runs: int) -> str:
    """Did the contexts drift before the accuracy fell?"""
    if not found:
        return f"no fall in {runs} runs, so that none shows what comes first"
    first = sum(fall.drift_first for fall in found)
    return f"{len(found)} of {runs} runs fall, in {first} of them after a drift of the contexts"


def spikes_in_words(found: Sequence[Fall], runs: int) -> str:
    """Did a spike come before the fall?"""
    if not found:
        return f"no fall in {runs} runs that a spike could have come before"
    spiked = sum(fall.spike is not None for fall in found)
    return f"{len(found)} of {runs} runs fall, {spiked} of them within {BEFORE} steps of a spike"
