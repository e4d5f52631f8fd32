"""Turns the observations of rules into findings.

An observation becomes a finding once `min_steps` steps were recorded since the first one and it held on the
`share` of them that the rule requires, which is all of them for most rules. The finding stays, with its range of
steps, after the observation ends.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from diagnostics.errors import InvalidType
from diagnostics.findings import Evidence, Finding
from diagnostics.records import StepRecord
from diagnostics.rules.options import Values
from diagnostics.rules.rule import Observation, Rule


@dataclass
class _Streak:
    """A repeated observation: steps since the first, on how many of them it held, and the sum of its values."""

    first: int
    last: int
    steps: int
    held: int
    total: float
    observation: Observation

    def add(self, step: int, seen: Observation) -> None:
        """Add one more step; the observation that is reported is the latest one that held."""
        self.last, self.steps, self.total = step, self.steps + 1, self.total + seen.value
        if seen.holds:
            self.held, self.observation = self.held + 1, seen


class Tally:
    """Counts observations over steps; its memory grows with modules and rules, never with steps."""

    def __init__(self, rules: Iterable[Rule], options: Mapping[str, Values]) -> None:
        self._running: dict[tuple[str, str, Hashable], _Streak] = {}
        self._latched: dict[tuple[str, str, Hashable], _Streak] = {}
        self._options = options
        self._rules = {rule.id: rule for rule in rules if rule.check is not None}

    def observe(self, record: StepRecord) -> None:
        """Apply every rule to one step.

        Raises:
            InvalidType: A check gave something that is not an observation.
        """
        running: dict[tuple[str, str, Hashable], _Streak] = {}
        for rule in self._rules.values():
            assert rule.check is not None
            options = self._options[rule.id]
            observations = rule.check(record, options)
            if not isinstance(observations, Iterable):
                raise _refuse(rule, observations)
            for seen in observations:
                if not isinstance(seen, Observation):
                    raise _refuse(rule, seen)
                key = (rule.id, seen.module, seen.key)
                streak = self._running.get(key)
                if streak is None:
                    if not seen.holds:
                        continue
                    streak = _Streak(record.step, record.step, 0, 0, 0.0, seen)
                streak.add(record.step, seen)
                if streak.held < options.get("share", 1.0) * streak.steps:
                    continue
                running[key] = streak
                if streak.steps >= options.get("min_steps", 1.0):
                    self._latched[key] = streak
        self._running = running

    def findings(self) -> list[Finding]:
        """The findings so far."""
        return [
            _finding(self._rules[rule], self._options[rule], streak)
            for (rule, _, _), streak in self._latched.items()
        ]


def _refuse(rule: Rule, got: object) -> InvalidType:
    return InvalidType(
        "rules.not-an-observation",
        "the check of {rule} must yield diagnostics.Observation, found {got!r}",
        rule=rule.id,
        got=got,
    )


def _finding(rule: Rule, options: Values, streak: _Streak) -> Finding:
    mean = streak.total / streak.steps
    bound = options[rule.bound] if rule.bound else None
    return rule.finding(
        streak.observation.module,
        streak.observation.message.replace("{value}", f"{mean:.3g}"),
        Evidence(rule.metric, mean, bound, streak.first, streak.last),
        streak.observation.cause,
        streak.observation.severity,
    )
