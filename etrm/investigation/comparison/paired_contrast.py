"""A registered comparison of two arms that share seed, data order and initial weights.

Before any run it is fixed what is compared (a loss, lower is better), on which scale, and the smallest effect
m that matters. The effect of a seed is control minus treatment, so a gain is positive; of the effects the
90 % paired-t interval decides (:func:`etrm.evaluation.statistics.decide`), with Holm's correction over the
comparisons of one hypothesis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

from etrm.evaluation.statistics import Decision, PairedInterval, decide, holm, paired_t_interval
from etrm.investigation.evidence.table import Effect, EvidenceRow, Metric
from etrm.investigation.evidence.words import format_seeds
from etrm.investigation.records import NotMeasured, Value, Verdict
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.model.core import VOCABULARY

KNOWS_NOTHING = math.log(VOCABULARY)
"""The loss of a uniform guess in nats per token. A run that diverged scores at least this."""
SMALLEST_LOSS = 1e-7
"""A loss below the rounding of float32 counts as this one, because 0 has no logarithm."""
LARGEST_P = 0.05
"""Largest one-sided p-value of a gain: the lower end of a 90 % interval at 0."""


def describe_change(interval: PairedInterval) -> str:
    """How much lower a loss is, or higher, with its interval."""
    i = interval
    if i.mean < 0:
        return f"higher by {-i.mean:.3f} [{-i.high:.3f}, {-i.low:.3f}]"
    return f"lower by {i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]"


@dataclass(frozen=True)
class Contrast:
    """A loss in two arms, paired over seeds.

    Attributes:
        name: stable name of what the treatment is, or is compared with.
        control: loss in nats per token, mean over seeds (geometric where the effect is one of logarithms).
        treatment: the same.
        effects: control minus treatment of every seed.
        smallest_effect: m, in the unit of the effects.
        title: the title in a report; the name by default.
        final: key of the runs' final value that is compared, where it is one.
    """

    name: str
    control: float
    treatment: float
    effects: tuple[float, ...]
    smallest_effect: float
    title: str = ""
    final: str = ""

    @property
    def words(self) -> str:
        """What a report calls it."""
        return self.title or self.name

    @cached_property
    def interval(self) -> PairedInterval | None:
        """Of the mean effect; None without two seeds, for one bounds nothing."""
        return paired_t_interval(self.effects) if len(self.effects) > 1 else None

    @property
    def lower(self) -> bool:
        """Whether the treatment's loss is lower, by enough to matter."""
        return (
            self.interval is not None and self.interval.low > 0 and self.interval.mean >= self.smallest_effect
        )

    @property
    def not_lower(self) -> bool:
        """Whether an effect that matters is ruled out."""
        return self.interval is not None and self.interval.high < self.smallest_effect

    @property
    def change(self) -> str:
        """The change of a loss whose effects are logarithms, in per cent with its interval."""
        if self.interval is None:
            return (
                f"{_per_cent(fmean(self.effects))} (one seed, no interval)"
                if self.effects
                else "not measured"
            )
        low, high = (_per_cent(end) for end in (self.interval.high, self.interval.low))
        return f"{_per_cent(self.interval.mean)} [{low}, {high}]"

    def row(self, metric: Metric, threshold: str, passed: bool | None, note: str = "") -> EvidenceRow:
        """The comparison as a row of an evidence table, an item of the metric."""
        none = NotMeasured(absent="no pair of runs finished")
        return metric.row(
            self.treatment if self.effects else none,
            item=self.name,
            item_words=self.words,
            control=self.control if self.effects else none,
            low=self.interval.low if self.interval else None,
            high=self.interval.high if self.interval else None,
            effect=Effect.known(self.effects, self.smallest_effect),
            final=self.final,
            threshold=threshold,
            passed=passed,
            n=format_seeds(len(self.effects)),
            note=note,
        )


def compare_losses(
    name: str, pairs: Sequence[tuple[float, float]], smallest_effect: float, title: str = ""
) -> Contrast:
    """Losses (control, treatment) of every seed, compared in nats per token."""
    effects = tuple(control - treatment for control, treatment in pairs)
    return Contrast(name, *_means(pairs), effects, smallest_effect, title)


def compare_log_losses(name: str, pairs: Sequence[tuple[float, float]], smallest_effect: float) -> Contrast:
    """The same by ratio: effects are differences of natural logarithms.

    A loss that is not finite, of a run that diverged, counts as the worst of the comparison or as an even
    guess, whichever is worse, and is never dropped.
    """
    known = [loss for pair in pairs for loss in pair if math.isfinite(loss)]
    worst = max([KNOWS_NOTHING, *known])
    logs = [
        tuple(math.log(max(SMALLEST_LOSS, x if math.isfinite(x) else worst)) for x in pair) for pair in pairs
    ]
    control, treatment = (math.exp(mean) for mean in _means(logs))
    return Contrast(name, control, treatment, tuple(a - b for a, b in logs), smallest_effect)


def compare_runs(
    name: str,
    control: Sequence[LoadedRun],
    treatment: Sequence[LoadedRun],
    final: str,
    smallest_effect: float,
    title: str = "",
) -> Contrast:
    """The log of the loss ``final`` of two arms, seed by seed; a run that failed otherwise has no pair."""
    by_seed = {run.seed: read_loss(run, final) for run in treatment}
    pairs = [(read_loss(run, final), by_seed[run.seed]) for run in control if run.seed in by_seed]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    return replace(compare_log_losses(name, both, smallest_effect), title=title, final=final)


def read_loss(run: LoadedRun, final: str) -> float | None:
    """A measured loss; infinite where the run diverged, None where it could not be had."""
    if run.diverged:
        return math.inf
    value: Value | None = run.final.get(final)
    return None if value is None or isinstance(value, NotMeasured) else value


@dataclass(frozen=True)
class TreatmentComparison:
    """Whether any of several treatments of one reference gains.

    Attributes:
        contrasts: the comparisons, at least one.
        decisions: the result of the registered rule for each contrast.
        p_values: Holm-adjusted.
    """

    contrasts: tuple[Contrast, ...]
    decisions: tuple[Decision, ...]
    p_values: tuple[float, ...]

    @cached_property
    def _first(self) -> int:
        """The comparison that decides: the largest gain, or what comes nearest to one."""
        ranks = [
            (d.gained, d.verdict == "INCONCLUSIVE", c.interval.mean if c.interval else -math.inf)
            for c, d in zip(self.contrasts, self.decisions, strict=True)
        ]
        return max(range(len(ranks)), key=ranks.__getitem__)

    @property
    def best(self) -> Contrast:
        """The comparison that decides."""
        return self.contrasts[self._first]

    @property
    def p_value(self) -> float:
        """Of the comparison that decides."""
        return self.p_values[self._first]

    @property
    def verdict(self) -> Verdict:
        """VALIDATED if a treatment gains, INVALIDATED if a gain that matters is ruled out for all of them."""
        return Verdict(self.decisions[self._first].verdict)

    @property
    def candidate(self) -> bool:
        """Whether only the small number of seeds prevents VALIDATED."""
        return self.decisions[self._first].candidate

    @property
    def gained(self) -> bool:
        """Whether there is a gain, be it of too few seeds for a verdict."""
        return self.decisions[self._first].gained

    @property
    def seeds_needed(self) -> int | None:
        """Seeds that would settle what is undecided; None where that is not known."""
        needed = [d.seeds_needed for d in self.decisions if d.verdict == "INCONCLUSIVE"]
        known = [n for n in needed if n is not None]
        return max(known) if known and len(known) == len(needed) else None

    @property
    def open_question(self) -> str:
        """The same in words."""
        if self.seeds_needed is None:
            return "how many seeds would settle it is not known"
        return f"about {self.seeds_needed} seeds would settle it"

    def rows(self, metric: Metric) -> tuple[EvidenceRow, ...]:
        """Every comparison of log losses as evidence, the one that decides first.

        A gain is what must not be found in a healthy subject.
        """
        pairs = list(zip(self.contrasts, self.decisions, strict=True))
        pairs.insert(0, pairs.pop(self._first))
        return tuple(
            contrast.row(
                metric,
                f"gains less than {contrast.smallest_effect:g} in ln",
                decision.ruled_out,
                "losses are geometric means over seeds; the interval is of ln(unchanged) - ln(changed), so that a "
                "gain is positive: 90 %, paired t over seeds",
            )
            for contrast, decision in pairs
        )


def compare_treatments(contrasts: Sequence[Contrast], planned: int = 0) -> TreatmentComparison:
    """The registered rule on several treatments of one reference.

    What would be VALIDATED must also have a Holm-adjusted p-value below .05. A candidate need not: it is a lead, and
    at three seeds hardly any effect would pass; that its mean must reach m is what keeps noise out.

    Args:
        contrasts: the comparisons.
        planned: the number of contrasts in Holm's correction, if some were not run; those count as a p-value of 1.
    """
    intervals = [c.interval or paired_t_interval(c.effects or (math.nan,)) for c in contrasts]
    not_made = [1.0] * (planned - len(contrasts))
    adjusted = holm([*(interval.p_value for interval in intervals), *not_made])[: len(contrasts)]
    decisions = [
        _corrected(decide(interval, contrast.smallest_effect), p)
        for contrast, interval, p in zip(contrasts, intervals, adjusted, strict=True)
    ]
    return TreatmentComparison(tuple(contrasts), tuple(decisions), tuple(adjusted))


def _corrected(decision: Decision, p: float) -> Decision:
    if p < LARGEST_P or decision.verdict != "VALIDATED":
        return decision
    reason = f"Holm-adjusted p {p:.2g} is not below {LARGEST_P:g}: {decision.reason}"
    return Decision("INCONCLUSIVE", reason, decision.screening, False, None)


def _means(pairs: Sequence[Sequence[float]]) -> tuple[float, float]:
    if not pairs:
        return math.nan, math.nan
    return fmean(pair[0] for pair in pairs), fmean(pair[1] for pair in pairs)


def _per_cent(effect: float) -> str:
    return f"{100 * math.expm1(-effect):+.0f} %"
