"""Longer runs of the unchanged config, which show whether it learns what a change gains, only later."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from etrm.investigation.comparison.paired_contrast import (
    Contrast,
    TreatmentComparison,
    compare_runs,
    read_loss,
)
from etrm.investigation.comparison.screening import METRIC, MISMATCHED, SMALLEST_EFFECT, Screen, Treatment
from etrm.investigation.runs.loaded_run import LoadedRun

LONGER = Treatment("longer", "three times the steps", {}, steps=3.0)
"""The runs that show whether a config learns what a change gains, only later. A warm-up that never ends costs far
more than that: 1.71 after three times the steps against 1.09 (`smoke`, three seeds)."""
LEAST_USE = 0.5
"""Share of the change's use of contexts that the unchanged config must reach in longer runs. On ten tasks a decoder
learns the answers by heart: with the encoder's rate 100 times too high it reaches the change's loss in three times the
steps, with a use of .000 against 1.3 (`smoke`, three seeds). Set after those seeds had been seen."""


@dataclass(frozen=True)
class LaterRuns:
    """The unchanged config in longer runs, against the best change in the usual steps.

    Attributes:
        loss: the contrast of the losses; the change is the treatment.
        use: the loss of the unchanged config with mismatched demonstrations minus that with its own, in nats per token,
            mean over the seeds; NaN of a model without demonstrations.
        use_of_change: the same of the change.
    """

    loss: Contrast
    use: float = math.nan
    use_of_change: float = math.nan

    @property
    def without_contexts(self) -> bool:
        """Whether the unchanged config uses its contexts less than half as much as the change does."""
        return self.use < LEAST_USE * self.use_of_change


def with_longer_runs(screen: Screen) -> Screen:
    """The screen with longer runs of its reference."""
    return replace(screen, treatments=(*screen.treatments, LONGER))


def compare_longer(
    screen: Screen, comparison: TreatmentComparison, runs: Sequence[LoadedRun]
) -> LaterRuns | None:
    """The best change in the usual steps against the unchanged config in longer runs, if those were made."""
    if LONGER not in screen.treatments:
        return None
    change = comparison.best
    best, longer = screen.runs_of(runs, change.name), screen.runs_of(runs, LONGER.name)
    loss = compare_runs(change.name, longer, best, METRIC, SMALLEST_EFFECT, change.words)
    return LaterRuns(loss, measure_use(longer), measure_use(best))


def measure_use(runs: Sequence[LoadedRun]) -> float:
    """The loss with mismatched demonstrations minus the loss, mean over the runs that have both; NaN of none."""
    found = [
        other - own
        for run in runs
        if (own := read_loss(run, METRIC)) is not None and (other := read_loss(run, MISMATCHED)) is not None
    ]
    finite = [use for use in found if math.isfinite(use)]
    return fmean(finite) if finite else math.nan
