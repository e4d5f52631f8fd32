"""Runs whose token accuracy falls for good, and whether a spike or a drift of the contexts came before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etrm.checkpoints.run_folder import FROM_STEP, read_record
from etrm.investigation.comparison import dynamics
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.training.scoring.overfit_gate import judge

BEFORE = 50
"""Steps before a fall within which a spike counts as preceding it (registered with S3)."""


@dataclass(frozen=True)
class Fall:
    """The fall of one run.

    Attributes:
        step: the step at which the mean accuracy was first less than half of its peak.
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


def find_falls(runs: Sequence[LoadedRun]) -> list[Fall]:
    """The falls among some finished runs."""
    found = []
    for run in runs:
        step = judge([m["accuracy_all"] or 0.0 for m in run.metrics]).fell
        if step is not None:
            spikes = [s for s in dynamics.find_spikes(run.metrics) if step - BEFORE <= s <= step]
            found.append(Fall(step, max(spikes, default=None), _find_first_drift(run)))
    return found


def _find_first_drift(run: LoadedRun) -> int | None:
    """The step of the log at which a drift began: the toolkit counts those that it recorded in the newest process."""
    began = read_record(run.path).get(FROM_STEP, 0)
    recorded = [m["step"] for m in run.metrics if m["step"] > began and "encoder.calls" in m]
    places = [
        item["evidence"]["first_step"]
        for item in run.findings
        if item["rule"] == "DRIFT001" and item["module"] == "encoder"
    ]
    return recorded[min(places)] if places else None


def describe_drifts(found: Sequence[Fall], runs: int) -> str:
    """How often the contexts drifted before the accuracy fell."""
    if not found:
        return f"no accuracy fell in {runs} runs, so none shows what comes first"
    first = sum(fall.drift_first for fall in found)
    return f"{len(found)} of {runs} runs fall, {first} of them after a drift of the contexts"


def describe_spikes(found: Sequence[Fall], runs: int) -> str:
    """How often a spike preceded the fall."""
    if not found:
        return f"no accuracy fell in {runs} runs, so no spike could precede a fall"
    spiked = sum(fall.spike is not None for fall in found)
    return f"{len(found)} of {runs} runs fall, {spiked} of them within {BEFORE} steps of a spike"
