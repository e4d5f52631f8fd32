"""Turns the observations of rules into findings.

An observation becomes a finding when, `min_steps` recorded steps after the first one, it held on the `share`
of them that its rule asks for: on all of them for most rules. It then stays, with its range of steps, also
after it ends.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from diagnostics.findings import Evidence, Finding
from diagnostics.records import StepRecord
from diagnostics.rules.module_checks import Observation
from diagnostics.rules.options import Values
from diagnostics.rules.registry import RULES, Rule


@dataclass
class _Run:
    """An observation made again and again: steps since the first, how many of them it held on, their sum."""

    first: int
    last: int
    steps: int
    held: int
    total: float
    observation: Observation

    def add(self, step: int, seen: Observation) -> None:
        """Take in one more step; what is said is what was seen last while it held."""
        self.last, self.steps, self.total = step, self.steps + 1, self.total + seen.value
        if seen.holds:
            self.held, self.observation = self.held + 1, seen


class Tally:
    """Counts observations over steps; its memory grows with modules and rules, never with steps."""

    def __init__(self, options: Mapping[str, Values]) -> None:
        self._running: dict[tuple[str, str, Hashable], _Run] = {}
        self._latched: dict[tuple[str, str, Hashable], _Run] = {}
        self._options = options
        self._rules = {rule.id: rule for rule in RULES if rule.check is not None}

    def observe(self, record: StepRecord) -> None:
        """Apply every rule to one step."""
        running: dict[tuple[str, str, Hashable], _Run] = {}
        for rule in self._rules.values():
            assert rule.check is not None
            options = self._options[rule.id]
            for seen in rule.check(record, options):
                key = (rule.id, seen.module, seen.key)
                run = self._running.get(key)
                if run is None:
                    if not seen.holds:
                        continue
                    run = _Run(record.step, record.step, 0, 0, 0.0, seen)
                run.add(record.step, seen)
                if run.held < options["share"] * run.steps:
                    continue
                running[key] = run
                if run.steps >= options["min_steps"]:
                    self._latched[key] = run
        self._running = running

    def findings(self) -> list[Finding]:
        """What persisted."""
        return [
            _finding(self._rules[rule], self._options[rule], run)
            for (rule, _, _), run in self._latched.items()
        ]


def _finding(rule: Rule, options: Values, run: _Run) -> Finding:
    mean = run.total / run.steps
    bound = options[rule.bound] if rule.bound else None
    return rule.finding(
        run.observation.module,
        run.observation.message.replace("{value}", f"{mean:.3g}"),
        Evidence(rule.metric, mean, bound, run.first, run.last),
        run.observation.cause,
        run.observation.severity,
    )
