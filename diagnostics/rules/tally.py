"""Turns the observations of rules into findings, and judges whole runs.

An observation becomes a finding once `min_steps` steps were recorded since the first one and it held on the
`share` of them that the rule requires, which is all of them for most rules. The finding stays, with its range of
steps, after the observation ends.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from diagnostics.errors import InvalidType, ToolkitError, describe
from diagnostics.findings import Evidence, Finding
from diagnostics.recording.finished_steps import RecordedSteps
from diagnostics.records import Absent, StepRecord
from diagnostics.records.columns import Apart, number_at
from diagnostics.rules.options import Values
from diagnostics.rules.rule import Observation, Rule
from diagnostics.rules.run_history import RunHistory


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


_Key = tuple[str, str, Hashable]  # rule, module, key of the observation


class _View:
    """Recorded steps: their numbers by position, and the record of each where a rule needs it."""

    def __init__(self, steps: RecordedSteps) -> None:
        self.steps = steps
        number = steps.record.step
        self.numbers = {position: number_at(number, position) for position in steps.positions}
        self._single: dict[int, StepRecord] = {}

    def at(self, position: int) -> StepRecord:
        """The record of one step."""
        if position not in self._single:
            self._single[position] = self.steps.at(position)
        return self._single[position]


def has_update(record: StepRecord) -> bool:
    """Whether an optimiser that holds a watched parameter stepped."""
    places = (parameter.place for parameter in record.parameters.values())
    return any(not isinstance(place, Absent) and place.stepped for place in places)


class Tally:
    """Counts observations over steps; its memory grows with modules and rules, never with steps.

    Attributes:
        failed: What a rule raised, by its id; it judges nothing from then on.
    """

    def __init__(self, rules: Iterable[Rule], options: Mapping[str, Values]) -> None:
        self._running: dict[str, dict[_Key, _Streak]] = {}  # of each rule
        self._latched: dict[_Key, _Streak] = {}
        self._options = options
        self._rules = {rule.id: rule for rule in rules}
        self.failed: dict[str, str] = {}

    def observe(self, found: Sequence[RecordedSteps]) -> None:
        """Apply every rule to steps, which are given in the order of their positions or together.

        Raises:
            InvalidType: A check gave something that is not an observation.
        """
        views = [_View(each) for each in found]
        numbers = dict(sorted(pair for view in views for pair in view.numbers.items()))
        views_by_position = {position: view for view in views for position in view.numbers}
        for rule in self._rules.values():
            if rule.check is None or rule.id in self.failed:
                continue
            with self._noting_failure(rule):
                seen = {
                    position: each for view in views for position, each in self._judge(rule, view).items()
                }
                if self._running.get(rule.id) or any(one.holds for each in seen.values() for one in each):
                    for position, number in numbers.items():
                        idle = rule.of_updates and not has_update(views_by_position[position].at(position))
                        self._count(rule, number, seen[position], idle=idle)

    @contextmanager
    def _noting_failure(self, rule: Rule) -> Iterator[None]:
        try:
            yield
        except ToolkitError:
            raise
        except Exception as error:  # noqa: BLE001 - a rule that fails must not end the training
            self.failed[rule.id] = describe(error)

    def _judge(self, rule: Rule, view: _View) -> dict[int, list[Observation]]:
        """Position -> observations of a rule; steps are judged together as far as they agree."""
        options, steps = self._options[rule.id], view.steps
        if steps.agreement is None:
            return {steps.positions[0]: _observations(rule, steps.record, options)}
        found: dict[int, list[Observation]] = {}
        waiting = list(view.numbers)
        while waiting:
            steps.agreement.steps = waiting
            try:
                seen = _observations(rule, steps.record, options)
            except Apart:
                seen, agreed = [], waiting
                found.update({each: _observations(rule, view.at(each), options) for each in waiting})
            else:
                agreed = steps.agreement.steps
                found.update({each: [_at(one, each) for one in seen] for each in agreed})
            waiting = [each for each in waiting if each not in agreed]
        return found

    def _count(self, rule: Rule, step: int, observations: Iterable[Observation], idle: bool) -> None:
        """Continue the streaks of a rule; those that are not observed end, except in a step that tells nothing."""
        options, known = self._options[rule.id], self._running.get(rule.id, {})
        running: dict[_Key, _Streak] = dict(known) if idle else {}
        for seen in observations:
            key = (rule.id, seen.module, seen.key)
            streak = known.get(key)
            if streak is None:
                if not seen.holds:
                    continue
                streak = _Streak(step, step, 0, 0, 0.0, seen)
            streak.add(step, seen)
            if streak.held < options.get("share", 1.0) * streak.steps:
                continue
            running[key] = streak
            if streak.steps >= options.get("min_steps", 1.0):
                self._latched[key] = streak
        self._running[rule.id] = running

    def findings(self) -> list[Finding]:
        """The findings so far."""
        return [
            _finding(self._rules[rule], self._options[rule], streak)
            for (rule, _, _), streak in self._latched.items()
        ]

    def judge_history(self, run: RunHistory) -> list[Finding]:
        """The findings of the rules that judge all recorded steps together.

        Raises:
            InvalidType: A check gave something that is not a finding.
        """
        found: list[Finding] = []
        for rule in self._rules.values():
            if rule.history_check is not None and rule.id not in self.failed:
                with self._noting_failure(rule):
                    found += _findings(rule, run, self._options[rule.id])
        return found


def _findings(rule: Rule, run: RunHistory, options: Values) -> list[Finding]:
    assert rule.history_check is not None
    found = list(rule.history_check(run, options))
    for each in found:
        if not isinstance(each, Finding):
            raise InvalidType(
                "rules.not-a-finding",
                "the history check of {rule} must give diagnostics.Finding, found {got!r}",
                rule=rule.id,
                got=each,
            )
    return found


def _at(seen: Observation, position: int) -> Observation:
    value = number_at(seen.value, position)
    return seen if value is seen.value else replace(seen, value=value)


def _observations(rule: Rule, record: StepRecord, options: Values) -> list[Observation]:
    assert rule.check is not None
    observations = rule.check(record, options)
    if not isinstance(observations, Iterable):
        raise _refuse(rule, observations)
    found = list(observations)
    for seen in found:
        if not isinstance(seen, Observation):
            raise _refuse(rule, seen)
    return found


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
