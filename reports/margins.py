"""What would change a verdict, in numbers: how far each deciding row is from the other side of its rule."""

from __future__ import annotations

from collections.abc import Sequence

from etrm.investigation.result import ControlOutcome, Direction, Effect, Evidence, Hypothesis, Verdict
from reports.sections import change, difference
from reports.text import count, escape, interval, number, value


def margins(hypothesis: Hypothesis) -> list[str]:
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
    foretold = [f"{escape(row.metric)}: {forecast(row.effect)}" for row in hypothesis.evidence if row.effect]
    if len(foretold) > 1:
        foretold.append(
            f"Holm's correction over these {len(foretold)} rows can ask for more seeds than each alone."
        )
    asserted = [row for row in hypothesis.evidence if row.passed is not None and row.effect is None]
    return broken + foretold + _asserted(asserted, hypothesis.verdict)


def forecast(effect: Effect) -> str:
    """What the registered rule says of the effect of each seed, and what it would take to say something else."""
    # Local: the package of evaluation imports torch, which most reports do without.
    from etrm.evaluation.statistics import FULL_SEEDS, decide, paired_t_interval

    found = paired_t_interval(effect.by_seed, effect.level)
    if found.seeds == 1:
        return (
            f"one seed gives {number(found.mean)} and no interval; two can rule out the smallest effect that "
            f"matters ({number(effect.smallest)}), {FULL_SEEDS} can prove it."
        )
    decision = decide(found, effect.smallest)
    measured = (
        f"mean effect {number(found.mean)} {interval(found.low, found.high)} over {count(found.seeds, 'seed')}, "
        f"smallest that matters {number(effect.smallest)}."
    )
    if decision.verdict == "VALIDATED" or decision.candidate:
        more = FULL_SEEDS - found.seeds
        lacking = (
            f" {count(more, 'more seed')} would prove it, should mean and spread stay." if more > 0 else ""
        )
        fall = number(found.mean - effect.smallest)
        return (
            f"{measured}{lacking} It would no longer hold if the mean fell by more than {fall}, or the lower end by "
            f"{number(found.low)}."
        )
    if decision.verdict == "INVALIDATED":
        rise = number(effect.smallest - found.high)
        return f"{measured} It would be open again if the upper end rose by {rise}."
    if decision.seeds_needed is None:
        return f"{measured} With this spread no number of seeds that one can run would decide it."
    which = "prove the effect" if found.mean >= effect.smallest else "rule out an effect that matters"
    return f"{measured} {count(decision.seeds_needed, 'seed')} in all would {which}, should mean and spread stay."


def _control(control: ControlOutcome) -> str:
    wanted = control.expected.value if control.kind == "positive" else f"not {Verdict.VALIDATED.value}"
    return f"Control {escape(control.name)} must be {wanted}; it was {control.got.value}."


def _asserted(rows: Sequence[Evidence], verdict: Verdict) -> list[str]:
    failing = [row for row in rows if not row.passed]
    if failing and verdict is Verdict.VALIDATED:
        every = "" if len(failing) == 1 else f"All of these {len(failing)} would have to pass: "
        return [every + "; ".join(_distance(row) for row in failing) + "."]
    if rows and not failing and verdict is Verdict.INVALIDATED:
        which = "The row that decides passes" if len(rows) == 1 else f"All {len(rows)} rows that decide pass"
        return [f"{which}; one that fails would make this VALIDATED."]
    return []


def _distance(row: Evidence) -> str:
    """A row that fails, and by how much where two numbers have to be equal."""
    text = f"{escape(row.metric)}: {value(row.treatment)}, threshold {escape(row.threshold)}"
    equal = row.direction is Direction.EQUAL and difference(row) is not None
    return f"{text}, off by {change(row)}" if equal else text
