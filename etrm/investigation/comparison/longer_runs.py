"""Longer runs of the unchanged config, which show whether it learns what a change gains, only later."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean

from etrm.investigation.comparison.paired_contrast import (
    Contrast,
    TreatmentComparison,
    compare_runs,
    read_loss,
)
from etrm.investigation.comparison.screening import METRIC, MISMATCHED, SMALLEST_EFFECT, Screen, Treatment
from etrm.investigation.evidence.table import EvidenceRow, Metric
from etrm.investigation.evidence.words import format_seeds
from etrm.investigation.records import Verdict
from etrm.investigation.runs.loaded_run import LoadedRun

LONGER = Treatment("longer", "three times the steps", {}, steps=3.0)
"""The runs that show whether a config learns what a change gains, only later. A warm-up that never ends costs far
more than that: 1.71 after three times the steps against 1.09 (`smoke`, three seeds)."""
LEAST_USE = 0.5
"""Share of the change's use of contexts that the unchanged config must reach in longer runs. On ten tasks a decoder
learns the answers by heart: with the encoder's rate 100 times too high it reaches the change's loss in three times the
steps, with a use of .000 against 1.3 (`smoke`, three seeds). Set after those seeds had been seen."""


class Later(StrEnum):
    """Whether the unchanged config reaches, in longer runs, the loss of the change in the usual steps."""

    BEHIND = "behind"
    REACHES = "reaches"
    UNDECIDED = "undecided"
    WITHOUT_CONTEXTS = "without-contexts"
    NOT_COMPARED = "not-compared"


VERDICTS_LATER = {Later.REACHES: Verdict.INVALIDATED, Later.UNDECIDED: Verdict.INCONCLUSIVE}
"""The verdicts of the outcomes with which a gain in short runs is no fault."""


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

    @property
    def outcome(self) -> Later:
        """What the interval of the losses and the use of contexts show."""
        interval = self.loss.interval
        if interval is None:
            return Later.NOT_COMPARED
        if interval.low > 0:
            return Later.BEHIND
        if self.without_contexts:
            return Later.WITHOUT_CONTEXTS
        return Later.REACHES if interval.mean <= 0 else Later.UNDECIDED

    @property
    def clause(self) -> str:
        """The outcome as the end of a sentence about the gain, with its conjunction."""
        match self.outcome:
            case Later.BEHIND:
                return ", and unchanged it stays behind that in three times the steps"
            case Later.REACHES:
                return "; but in three times the steps the unchanged config reaches that loss: it only learns later"
            case Later.UNDECIDED:
                return "; it is undecided whether the unchanged config only learns later"
            case Later.WITHOUT_CONTEXTS:
                return (
                    "; in three times the steps the unchanged config reaches that loss, but without its contexts: "
                    f"mismatched demonstrations raise it by {self.use:.3f}, and by {self.use_of_change:.3f} with the "
                    "change"
                )
            case Later.NOT_COMPARED:
                return ""

    def rows(self, catching_up: Metric, use: Metric) -> tuple[EvidenceRow, ...]:
        """The rows of the losses and, of a model with demonstrations, of the use of contexts.

        Args:
            catching_up: the measure of the loss of the unchanged config in longer runs.
            use: the measure of its use of contexts.
        """
        interval = self.loss.interval
        loss = self.loss.row(
            catching_up,
            "reaches the loss of the change",
            None if interval is None else interval.mean <= 0,
            "the change has the usual steps; the interval is of ln(unchanged) - ln(changed): 90 %, paired t over seeds",
        )
        loss = loss.replace(effect=None)  # the rule of an effect that matters does not decide it
        if math.isnan(self.use):
            return (loss,)
        return loss, use.row(
            self.use,
            control=self.use_of_change,
            threshold=f">= {LEAST_USE:g} times that of the change",
            passed=not self.without_contexts,
            n=format_seeds(len(self.loss.effects)),
        )


def with_longer_runs(screen: Screen, seeds: tuple[int, ...] = ()) -> Screen:
    """The screen with longer runs of its reference.

    Args:
        screen: the screen; it is not altered.
        seeds: the seeds of the longer runs, if they differ from those of the screen.
    """
    return replace(screen, treatments=(*screen.treatments, replace(LONGER, seeds=seeds)))


def compare_longer(
    screen: Screen, comparison: TreatmentComparison, runs: Sequence[LoadedRun]
) -> LaterRuns | None:
    """The best change in the usual steps against the unchanged config in longer runs, if those were made."""
    if LONGER.name not in {t.name for t in screen.treatments}:
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
