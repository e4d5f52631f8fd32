"""What would change a verdict: how far each deciding row is from the threshold of its rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from etrm.investigation.evidence.table import Direction, Effect, EvidenceRow
from etrm.investigation.records import ControlOutcome, Verdict
from etrm.investigation.result import HypothesisResult
from reports.markdown import count, escape, interval, number, value
from reports.pages.sections import change, difference

if TYPE_CHECKING:
    from etrm.evaluation.statistics import PairedInterval


def margins(hypothesis: HypothesisResult) -> list[str]:
    """Return sentences of markdown; none if nothing was measured.

    Controls and instruments that failed come first, because no row counts until they work. Rows without an interval
    are named one by one if they fail. Those that pass are only counted, because a failure of any one would be enough.
    """
    broken = [_describe_control(control) for control in hypothesis.controls if not control.behaved]
    broken += [
        f"The instrument check “{escape(check.name)}” must pass. It failed: {escape(check.detail)}."
        for check in hypothesis.instruments
        if check.passed is False
    ]
    forecasts = [
        f"{escape(row.metric)}: {in_words(forecast(row.effect))}"
        for row in hypothesis.evidence
        if row.effect and row.direction is not Direction.CONTEXT
    ]
    if len(forecasts) > 1:
        forecasts.append(
            f"Holm's correction for these {len(forecasts)} rows can require more seeds than a single row does."
        )
    asserted = [row for row in hypothesis.evidence if row.passed is not None and row.effect is None]
    return broken + forecasts + _asserted(asserted, hypothesis.verdict)


class Outlook(StrEnum):
    """The state of a comparison, which determines what would change its result."""

    ONE_SEED = "one-seed"  # there is no interval
    HOLDS = "holds"  # the effect matters, but there may be too few seeds to prove it
    RULED_OUT = "ruled-out"
    OPEN = "open"  # a known number of seeds would decide it
    OPEN_FOR_EVER = "open-for-ever"  # no practical number of seeds would decide it


@dataclass(frozen=True)
class Forecast:
    """The result of the registered rule for the effects of all seeds, and what would change it.

    Attributes:
        outlook: the state of the comparison.
        found: the interval of the mean effect.
        smallest: the smallest effect that matters.
        seeds: the number of missing seeds if the effect holds but is not proven; the total number of seeds that would
            decide it if it is open.
        by: the amount by which the mean would have to fall, or the upper end of the interval to rise.
    """

    outlook: Outlook
    found: PairedInterval
    smallest: float
    seeds: int | None = None
    by: float | None = None


def forecast(effect: Effect) -> Forecast:
    """Apply the registered rule to the effects of all seeds."""
    # Imported here because etrm.evaluation imports torch, which most reports do not need.
    from etrm.evaluation.statistics import FULL_SEEDS, decide, paired_t_interval

    found, m = paired_t_interval(effect.by_seed, effect.level), effect.smallest
    if found.seeds == 1:
        return Forecast(Outlook.ONE_SEED, found, m)
    decision = decide(found, m)
    if decision.gained:
        return Forecast(Outlook.HOLDS, found, m, max(0, FULL_SEEDS - found.seeds), found.mean - m)
    if decision.ruled_out:
        return Forecast(Outlook.RULED_OUT, found, m, by=m - found.high)
    if decision.seeds_needed is None:
        return Forecast(Outlook.OPEN_FOR_EVER, found, m)
    return Forecast(Outlook.OPEN, found, m, decision.seeds_needed)


def in_words(forecast: Forecast) -> str:
    """Return a forecast as sentences."""
    from etrm.evaluation.statistics import FULL_SEEDS

    found, smallest = forecast.found, number(forecast.smallest)
    if forecast.outlook is Outlook.ONE_SEED:
        return (
            f"the only seed has the effect {number(found.mean)}, which gives no interval. Two seeds can rule out the "
            f"smallest effect that matters ({smallest}), {FULL_SEEDS} seeds can prove it."
        )
    return (
        f"the mean effect is {number(found.mean)} {interval(found.low, found.high)} over {count(found.seeds, 'seed')}; "
        f"the smallest effect that matters is {smallest}.{_describe_what_would_change(forecast)}"
    )


def _describe_what_would_change(forecast: Forecast) -> str:
    found, seeds, by = forecast.found, forecast.seeds, number(forecast.by or 0.0)
    if forecast.outlook is Outlook.HOLDS:
        proof = (
            f" {count(seeds, 'more seed')} would prove it if mean and spread stay the same." if seeds else ""
        )
        return (
            f"{proof} It would no longer hold if the mean fell by more than {by}, or the lower end of the interval by "
            f"{number(found.low)}."
        )
    if forecast.outlook is Outlook.RULED_OUT:
        return f" It would be undecided again if the upper end of the interval rose by {by}."
    if seeds is None:
        return " With this spread between seeds, no practical number of seeds would decide it."
    which = "prove the effect" if found.mean >= forecast.smallest else "rule out an effect that matters"
    return f" A total of {count(seeds, 'seed')} would {which} if mean and spread stay the same."


def _describe_control(control: ControlOutcome) -> str:
    wanted = control.expected.value if control.kind == "positive" else f"not {Verdict.VALIDATED.value}"
    return f"The control {escape(control.name)} must be {wanted}; it was {control.got.value}."


def _asserted(rows: Sequence[EvidenceRow], verdict: Verdict) -> list[str]:
    failing = [row for row in rows if not row.passed]
    if failing and verdict is Verdict.VALIDATED:
        every = "This row would" if len(failing) == 1 else f"All of these {len(failing)} rows would"
        return [f"{every} have to pass: {'; '.join(_measure_distance(row) for row in failing)}."]
    if rows and not failing and verdict is Verdict.INVALIDATED:
        which = "The deciding row passes" if len(rows) == 1 else f"All {len(rows)} deciding rows pass"
        return [f"{which}. A single failure would make this hypothesis VALIDATED."]
    return []


def _measure_distance(row: EvidenceRow) -> str:
    """Return a row that fails, with the difference if two numbers have to be equal."""
    text = f"{escape(row.metric)}: {value(row.treatment)}, threshold {escape(row.threshold)}"
    equal = row.direction is Direction.EQUAL and difference(row) is not None
    return f"{text}, off by {change(row)}" if equal else text
