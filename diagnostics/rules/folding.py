"""Folds consequences under their cause, so that one fault is one finding.

A finding explains another one that began no earlier where

- the same holds in every watched module since the same step: the cause is in none of them, and one finding for
  the whole model stands for all,
- a rule of the table below says that it follows in the same module, or in one inside it,
- both are of a rule that one line of the user's breaks in many modules, as eval(), and began together,
- the same rule speaks of a module on the way: gradient that a module loses is lost to what feeds it, and an
  output that collapsed or drifts makes those after it do so.

What explains and is itself explained stands with the rest under the first cause.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from diagnostics.findings import Evidence, Finding, Severity
from diagnostics.recording.module_graph import Flow

_UNUSED = frozenset({"COV001", "COV002", "WASTE001", "CALL001"})
_STARVED = _UNUSED | {"GRAD002", "REACH001", "REACH002", "MOVE002"}
_FOLLOWS: Mapping[str, frozenset[str]] = {
    "REACH003": _STARVED | {"GRAD001", "MOVE001", "COLLAPSE001", "SPIKE001", "DRIFT001"},
    "CALL002": _STARVED | {"GRAD001"},
    "GRAD001": _STARVED,
    "GRAD002": _STARVED,
    "GRAD003": frozenset(),
    "GRAD004": frozenset({"SPIKE001", "DRIFT001", "COLLAPSE001"}),
    "GRAD005": frozenset({"MOVE004"}),
    "COV001": _UNUSED | {"DRIFT001"},
    "COV002": frozenset({"WASTE001", "CALL001"}),
    "FROZEN001": frozenset({"MOVE002"}),
    "MOVE003": frozenset({"MOVE001"}),
    "MOVE001": frozenset(),
    "MOVE004": frozenset(),
    "REACH001": frozenset({"MOVE002"}),
    "REACH002": frozenset({"MOVE002"}),
    "COLLAPSE001": frozenset({"SPIKE001", "DRIFT001"}),
    "WASTE001": frozenset(),
    "CALL001": frozenset(),
    "MOVE002": frozenset(),
    "MODE001": frozenset(),
    "SHARE001": frozenset(),
}
"""Rule -> what follows from it in the same module and inside it, beside the rule itself; causes come first."""

_BACKWARD = frozenset({"GRAD001", "GRAD002", "GRAD005", "COV001", "COV002", "WASTE001"})
_FORWARD = frozenset({"COLLAPSE001", "DRIFT001", "REACH003"})
_AT_ONCE = frozenset({"MODE001"})
"""Rules of which one line of a user's makes all modules speak."""
_RANK = {rule: place for place, rule in enumerate(_FOLLOWS)}


def fold(
    findings: Iterable[Finding], learners: Sequence[str], order: Sequence[str], flow: Flow
) -> list[Finding]:
    """The causes, each with its consequences.

    Args:
        learners: The outermost watched modules with trainable parameters.
        order: Watched modules in the order of their first calls.
        flow: Which of them feed which.
    """
    place = {name: number for number, name in enumerate(order)}

    def precedence(finding: Finding) -> tuple[int, int, int, int]:
        """A cause stands before all that it may explain."""
        at = place.get(finding.module, len(place))
        depth = finding.module.count(".") + 1 if finding.module else 0
        seen = finding.evidence
        # what is broken once breaks the rest; of other causes in turn the one that stays is the one to name
        turn = seen.first_step if finding.rule == "REACH003" else seen.first_step - seen.last_step
        return (
            _RANK.get(finding.rule, len(_RANK)),
            depth,
            -at if finding.rule in _BACKWARD else at,
            turn,
        )

    causes: list[Finding] = []
    for finding in sorted(_whole_model(findings, learners), key=precedence):
        for number, cause in enumerate(causes):
            if any(_explains(known, finding, flow) for known in (cause, *cause.consequences)):
                causes[number] = _holding(cause, [finding])
                break
        else:
            # a module further in, which comes late here, may be behind one further out
            explained = [cause for cause in causes if _explains(finding, cause, flow)]
            causes = [cause for cause in causes if cause not in explained]
            causes.append(_holding(finding, explained))
    return causes


def _holding(cause: Finding, explained: Iterable[Finding]) -> Finding:
    held = [
        each for finding in explained for each in (replace(finding, consequences=()), *finding.consequences)
    ]
    return replace(cause, consequences=(*cause.consequences, *held))


def _explains(cause: Finding, finding: Finding, flow: Flow) -> bool:
    if cause.severity is Severity.NOTE < finding.severity:
        return False
    if cause.rule == finding.rule and cause.module == finding.module:
        # one thing with several causes in turn, as a gradient that is true at first and stale later
        return cause.rule in _FOLLOWS and not _overlap(cause.evidence, finding.evidence)
    if finding.evidence.first_step < cause.evidence.first_step:
        return False
    inside = bool(cause.consequences) if not cause.module else _holds(cause.module, finding.module)
    if cause.rule in _AT_ONCE and finding.rule == cause.rule:
        return finding.evidence.first_step == cause.evidence.first_step
    if inside:
        return finding.rule == cause.rule or finding.rule in _FOLLOWS.get(cause.rule, ())
    if finding.rule != cause.rule:
        return False
    if cause.rule in _FORWARD:
        return flow.feeds(cause.module, finding.module)
    # a module with less coverage than what it feeds loses more on its own account; one with more has another
    # way to the loss, and what is missing there is not missing because of this one
    same = math.isclose(finding.evidence.value, cause.evidence.value, rel_tol=1e-6)
    own = finding.evidence.metric == "coverage" and not same
    return cause.rule in _BACKWARD and not own and flow.feeds(finding.module, cause.module)


def _holds(module: str, other: str) -> bool:
    return f"{other}.".startswith(f"{module}.")


def _overlap(one: Evidence, other: Evidence) -> bool:
    return one.first_step <= other.last_step and other.first_step <= one.last_step


def _whole_model(findings: Iterable[Finding], learners: Sequence[str]) -> list[Finding]:
    """What holds in all outermost modules alike, as one finding with them as its consequences."""
    alike: dict[tuple[str, str, int, Severity], list[Finding]] = {}
    for finding in findings:
        key = (finding.rule, finding.code, finding.evidence.first_step, finding.severity)
        alike.setdefault(key, []).append(finding)
    folded: list[Finding] = []
    for group in alike.values():
        everywhere = len(learners) > 1 and {finding.module for finding in group} >= set(learners)
        folded += [_joined(group)] if everywhere else group
    return folded


def _joined(group: Sequence[Finding]) -> Finding:
    first = group[0]
    seen = [finding.evidence for finding in group]
    values = [evidence.value for evidence in seen]
    last = max(evidence.last_step for evidence in seen)
    named = ", ".join(finding.module for finding in group[:3]) + (", ..." if len(group) > 3 else "")
    return replace(
        first,
        module="",
        message=f"all {len(group)} watched modules alike ({named}), so the cause is in none of them: {first.message}",
        evidence=Evidence(
            first.evidence.metric,
            sum(values) / len(values),
            first.evidence.threshold,
            first.evidence.first_step,
            last,
        ),
        consequences=tuple(group),
    )
