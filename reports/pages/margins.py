"""What would change a verdict, in numbers: how far each deciding row is from the other side of its rule."""

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
    """Sentences of markdown; none where nothing was measured.

    What did not behave comes first, for it has to before any row counts. Of rows without an interval, those that
    fail are named one by one; those that pass are many, and any of them would do.
    """
    broken = [_control(control) for control in hypothesis.controls if not control.behaved]
    broken += [
        f"Instrument: {escape(check.name)} must hold. It does not: {escape(check.detail)}."
        for check in hypothesis.instruments
        if not check.passed
    ]
    foretold = [
        f"{escape(row.metric)}: {in_words(forecast(row.effect))}" for row in hypothesis.evidence if row.effect
    ]
    if len(foretold) > 1:
        foretold.append(
            f"Holm's correction over these {len(foretold)} rows can ask for more seeds than each alone."
        )
    asserted = [row for row in hypothesis.evidence if row.passed is not None and row.effect is None]
    return broken + foretold + _asserted(asserted, hypothesis.verdict)


class Outlook(StrEnum):
    """What would change what a comparison says."""

    ONE_SEED = "one-seed"  # no interval
    HOLDS = "holds"  # an effect that matters, be it of too few seeds to prove it
    RULED_OUT = "ruled-out"
    OPEN = "open"  # so many seeds would decide it
    OPEN_FOR_EVER = "open-for-ever"  # no number of seeds that one can run would


@dataclass(frozen=True)
class Forecast:
    """What the registered rule says of the effect of each seed, and what it would take to say something else.

    Attributes:
        outlook: what would change it.
        found: interval of the mean effect.
        smallest: effect that matters.
        seeds: those that are lacking to a proof where the effect holds, those in all that would decide it where
            that is open.
        by: what the mean would have to fall by, or the upper end to rise by.
    """

    outlook: Outlook
    found: PairedInterval
    smallest: float
    seeds: int | None = None
    by: float | None = None


def forecast(effect: Effect) -> Forecast:
    """Hold the effects of all seeds against the registered rule."""
    # Local: the package of evaluation imports torch, which most reports do without.
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
    """A forecast as sentences."""
    from etrm.evaluation.statistics import FULL_SEEDS

    found, smallest = forecast.found, number(forecast.smallest)
    if forecast.outlook is Outlook.ONE_SEED:
        return (
            f"one seed gives {number(found.mean)} and no interval; two can rule out the smallest effect that "
            f"matters ({smallest}), {FULL_SEEDS} can prove it."
        )
    return (
        f"mean effect {number(found.mean)} {interval(found.low, found.high)} over {count(found.seeds, 'seed')}, "
        f"smallest that matters {smallest}.{_what_would_change(forecast)}"
    )


def _what_would_change(forecast: Forecast) -> str:
    found, seeds, by = forecast.found, forecast.seeds, number(forecast.by or 0.0)
    if forecast.outlook is Outlook.HOLDS:
        proof = f" {count(seeds, 'more seed')} would prove it, should mean and spread stay." if seeds else ""
        return (
            f"{proof} It would no longer hold if the mean fell by more than {by}, or the lower end by "
            f"{number(found.low)}."
        )
    if forecast.outlook is Outlook.RULED_OUT:
        return f" It would be open again if the upper end rose by {by}."
    if seeds is None:
        return " With this spread no number of seeds that one can run would decide it."
    which = "prove the effect" if found.mean >= forecast.smallest else "rule out an effect that matters"
    return f" {count(seeds, 'seed')} in all would {which}, should mean and spread stay."


def _control(control: ControlOutcome) -> str:
    wanted = control.expected.value if control.kind == "positive" else f"not {Verdict.VALIDATED.value}"
    return f"Control {escape(control.name)} must be {wanted}; it was {control.got.value}."


def _asserted(rows: Sequence[EvidenceRow], verdict: Verdict) -> list[str]:
    failing = [row for row in rows if not row.passed]
    if failing and verdict is Verdict.VALIDATED:
        every = "" if len(failing) == 1 else f"All of these {len(failing)} would have to pass: "
        return [every + "; ".join(_distance(row) for row in failing) + "."]
    if rows and not failing and verdict is Verdict.INVALIDATED:
        which = "The row that decides passes" if len(rows) == 1 else f"All {len(rows)} rows that decide pass"
        return [f"{which}; one that fails would make this VALIDATED."]
    return []


def _distance(row: EvidenceRow) -> str:
    """A row that fails, and by how much where two numbers have to be equal."""
    text = f"{escape(row.metric)}: {value(row.treatment)}, threshold {escape(row.threshold)}"
    equal = row.direction is Direction.EQUAL and difference(row) is not None
    return f"{text}, off by {change(row)}" if equal else text
