"""Learning rates that swing or vanish: a schedule over epochs that advances in every step."""

from __future__ import annotations

from collections.abc import Sequence

from diagnostics.causes import Cause
from diagnostics.findings import Evidence, Finding
from diagnostics.records import Absent, StepRecord
from diagnostics.rules.options import Option, Values
from diagnostics.rules.rule import WARNING, Family, Rule
from diagnostics.rules.run_history import RunHistory

SWINGS = Cause(
    "rate-swings",
    "the learning rate is back at {high:.2g} {steps} steps after it fell from there to {low:.2g}, without a"
    " jump: a cosine continues past its end",
    remedy="Step an epoch schedule once per epoch, or set T_max to the number of steps.",
)
VANISHED = Cause(
    "rate-vanished",
    "the learning rate fell from {high:.2g} to {low:.2g} within {steps} steps and stays there: an epoch"
    " schedule advances with each batch, a schedule is shorter than the run, or one that waits for a plateau gets a"
    " number that rises",
    remedy="Step an epoch schedule once per epoch, and make it as long as the run; for an accuracy, ReduceLROnPlateau"
    ' takes mode="max".',
)
NEXT_TO_NOTHING = Cause(
    "rate-next-to-nothing",
    "the learning rate is {high:.2g} and does not rise, and an update changes weights by less than a millionth of their"
    " size: a run of a million steps ends where it began",
    remedy="Raise the rate: Adam moves each weight by about the rate, which is 1e-4 to 1e-2 as a rule.",
)
NO_EFFECT = Cause(
    "schedule-of-idle-optimizer",
    "{schedule} advances the rate of an optimiser that never steps, but another optimiser updates the same weights",
    remedy="Give the schedule the optimiser that steps, after that optimiser is made.",
)
_GONE = 1e-3
"""Share of the largest rate below which updates are as good as none: schedules end at a hundredth, or at 0 at last."""
_STAYED = 20
"""Steps at such a rate; the end of a schedule that falls to 0 has a few."""
_TINY = 1e-7
"""Rate below which a step of Adam changes no weight of size 1 in single precision."""
_NO_CHANGE = 1e-6
"""Change of the weights in one step, relative to them, with which a million steps end where they began."""
_LOW, _HIGH = 0.05, 0.9
"""Shares of the largest rate between which it swings."""
_JUMP = 0.5  # share of the largest rate: a restart is one jump


def find_rate_swings(run: RunHistory, options: Values) -> list[Finding]:
    """RATE001, for the first group of the optimisers whose rate falls to nearly nothing and comes back."""
    history = run.steps
    groups = min((len(record.rates) for record in history), default=0)
    for group in range(groups):
        rates = [record.rates[group] for record in history]
        known = [float(rate) for rate in rates if isinstance(rate, (int, float))]
        swing = _find_swing(known) if len(known) == len(rates) else None
        gone = _find_end(known) if len(known) == len(rates) and swing is None else None
        if gone is not None:
            steps = history[gone].step - history[known.index(max(known))].step
            cause = VANISHED.of(high=max(known), low=known[-1], steps=steps)
            evidence = Evidence(
                RATE001.metric, float(steps), options["steps"], history[gone].step, history[-1].step
            )
            return [RATE001.finding("", f"group {group}: {cause}", evidence, cause)]
        if swing is None and len(known) == len(rates) and _is_next_to_nothing(known, group, run.last):
            cause = NEXT_TO_NOTHING.of(high=max(known))
            evidence = Evidence(RATE001.metric, float(len(known)), None, history[0].step, history[-1].step)
            return [RATE001.finding("", f"group {group}: {cause}", evidence, cause)]
        if swing is None:
            continue
        first, last = history[swing[0]].step, history[swing[1]].step
        if last - first > options["steps"]:
            continue
        part = known[swing[0] : swing[1] + 1]
        cause = SWINGS.of(low=min(part), high=part[-1], steps=last - first)
        message = f"group {group}: {cause}"
        evidence = Evidence(RATE001.metric, float(last - first), options["steps"], first, last)
        return [RATE001.finding("", message, evidence, cause)]
    return []


def _is_next_to_nothing(rates: Sequence[float], group: int, last: StepRecord | None) -> bool:
    """Whether a rate is tiny and no warm-up, and changes the weights of its group by nearly nothing."""
    if last is None or len(rates) < _STAYED or not 0.0 < max(rates) < _TINY or rates[-1] > rates[0]:
        return False
    place = list(last.rates)[group]
    own = [
        each
        for each in last.parameters.values()
        if not isinstance(each.place, Absent) and (each.place.optimizer, each.place.group) == place
    ]
    small = all(each.update_norm < _NO_CHANGE * each.weight_norm for each in own if each.weight_norm > 0)
    return small and any(each.changed for each in own)


def _find_end(rates: Sequence[float]) -> int | None:
    """The place from which a rate that was larger is next to nothing for good, and as long as it took to fall there."""
    top = max(rates, default=0.0)
    gone = next((place for place in range(len(rates)) if max(rates[place:]) < _GONE * top), None)
    if gone is None:
        return None
    fell, stayed = gone - rates.index(top), len(rates) - gone
    return gone if stayed >= max(_STAYED, fell / 2) else None


def _find_swing(rates: Sequence[float]) -> tuple[int, int] | None:
    """The last place before a rate falls to nearly nothing, and the first at which it is back without a jump."""
    top = max(rates, default=0.0)
    start = fell = None
    for place, rate in enumerate(rates):
        jumped = place > 0 and rate - rates[place - 1] > _JUMP * top
        if jumped:
            start = fell = None
        if rate >= _HIGH * top > 0:
            if start is not None and fell is not None:
                return start, place
            start, fell = place, None
        elif rate <= _LOW * top and start is not None:
            fell = place
    return None


RATE001 = Rule(
    "RATE001",
    WARNING,
    "The learning rate oscillates or vanishes",
    "steps",
    "Step a schedule as often as its length was counted.",
    None,
    {
        "steps": Option(
            100.0,
            2.0,
            1e9,
            "steps within which the rate is back",
            whole=True,
            why="a cosine over 50 epochs that advances with each batch takes as many; cycles on purpose are longer",
        ),
    },
    source="history",
    history_check=find_rate_swings,
    needs_optimizer=True,
    explains=frozenset({"MOVE001"}),  # weights stand still at a rate that has vanished
    rank=118,  # before MOVE001
    everywhere=True,
    causes=(SWINGS, VANISHED, NEXT_TO_NOTHING, NO_EFFECT),
    what="A group's rate falls below 5 % of its largest value and is at 90 % again within 100 steps, without a jump; or"
    " it stays below a thousandth for 20 steps and half as long as it took to fall; or it is below 1e-7 for 20 steps,"
    " and an update changes less than a millionth of the weights. In a script: a schedule advances,"
    " and its optimiser never steps, while another one updates the same weights.",
    why="The rate falls to almost zero and rises again many times in an epoch, and training ends at an arbitrary rate.",
    example="`CosineAnnealingLR(optimizer, T_max=epochs)` whose `step()` is called per batch.",
    false_alarms="Cycles this short on purpose.",
)
FAMILY = Family(62, "Updates of parameters", (RATE001,))
