"""Lists consequences under their cause, so that one fault is one finding.

A finding explains another one that began no earlier where

- the same rule fires for every watched module from the same step on: the cause is in none of them, and one finding
  for the whole model replaces them,
- its rule lists the other's rule (`Rule.explains`), and both are in the same module, or the other inside it,
- its rule fires in many modules for one line of code, such as eval() (`Rule.spreads` is "together"), and both began
  together,
- its rule does lasting damage (`Rule.irreversible`), such as a NaN in the weights, and lists the other's rule: it
  spreads to every module,
- both are of the same rule, and one module is on the way of the other: gradient that a module loses is lost to the
  modules that feed it ("backward"), and an output that collapsed or drifts makes those after it do so ("forward").

A finding that both explains and is explained is listed with the rest under the first cause.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from diagnostics.findings import Evidence, Finding, Severity
from diagnostics.recording.calls.module_graph import Flow
from diagnostics.rules.rule import Rule

_LAST = 1_000_000
"""Rank of a rule without one."""


def fold(
    findings: Iterable[Finding],
    learners: Sequence[str],
    order: Sequence[str],
    flow: Flow,
    rules: Iterable[Rule],
) -> list[Finding]:
    """The causes, each with its consequences.

    Args:
        findings: Findings of the rules.
        learners: The outermost watched modules with trainable parameters.
        order: Watched modules in the order of their first calls.
        flow: Which of them feed which.
        rules: The rules of the monitor.
    """
    known = {rule.id: rule for rule in rules}
    place = {name: number for number, name in enumerate(order)}

    def precedence(finding: Finding) -> tuple[int, int, int, int, int]:
        """A cause comes before everything that it may explain."""
        rule = known[finding.rule]
        at = place.get(finding.module, len(place))
        depth = finding.module.count(".") + 1 if finding.module else 0
        seen = finding.evidence
        # damage that is done once breaks the rest; of other causes in turn, the one that lasts is the one to name
        turn = seen.first_step if rule.irreversible else seen.first_step - seen.last_step
        return (
            _LAST if rule.rank is None else rule.rank,
            seen.first_step if rule.irreversible else 0,
            depth,
            -at if rule.spreads == "backward" else at,
            turn,
        )

    causes: list[Finding] = []
    for finding in sorted(_whole_model(findings, learners), key=precedence):
        for number, cause in enumerate(causes):
            if any(_explains(each, finding, flow, known) for each in (cause, *cause.consequences)):
                causes[number] = _holding(cause, [finding])
                break
        else:
            # an inner module, which comes late in this order, may explain an outer one
            explained = [cause for cause in causes if _explains(finding, cause, flow, known)]
            causes = [cause for cause in causes if cause not in explained]
            causes.append(_holding(finding, explained))
    return causes


def _holding(cause: Finding, explained: Iterable[Finding]) -> Finding:
    held = [
        each for finding in explained for each in (replace(finding, consequences=()), *finding.consequences)
    ]
    return replace(cause, consequences=(*cause.consequences, *held))


def _explains(cause: Finding, finding: Finding, flow: Flow, rules: Mapping[str, Rule]) -> bool:
    rule = rules[cause.rule]
    if cause.severity is Severity.NOTE < finding.severity:
        return False
    if cause.rule == finding.rule and cause.module == finding.module:
        # one problem with several causes in turn, such as a gradient that is real at first and stale later
        return rule.rank is not None and not _overlap(cause.evidence, finding.evidence)
    if finding.evidence.first_step < cause.evidence.first_step:
        return False
    if rule.irreversible and (finding.rule == cause.rule or finding.rule in rule.explains):
        return True  # a number that is not finite spreads to every module
    whole = bool(cause.consequences) or rule.everywhere
    inside = whole if not cause.module else _holds(cause.module, finding.module)
    inside = inside or cause.module == finding.module
    joint = any(each.together and each.code == finding.code == cause.code for each in rule.causes)
    if (rule.spreads == "together" or joint) and finding.rule == cause.rule:
        return finding.evidence.first_step == cause.evidence.first_step
    if inside:
        return finding.rule == cause.rule or finding.rule in rule.explains
    if finding.rule != cause.rule:
        return False
    if rule.spreads == "forward":
        return flow.feeds(cause.module, finding.module)
    # a module with less coverage than the one it feeds loses more by itself; one with more has another way to the
    # loss, so what it lacks is not lost in this one
    same = math.isclose(finding.evidence.value, cause.evidence.value, rel_tol=1e-6)
    own = finding.evidence.metric == "coverage" and not same
    return rule.spreads == "backward" and not own and flow.feeds(finding.module, cause.module)


def _holds(module: str, other: str) -> bool:
    return f"{other}.".startswith(f"{module}.")


def _overlap(one: Evidence, other: Evidence) -> bool:
    return one.first_step <= other.last_step and other.first_step <= one.last_step


def _whole_model(findings: Iterable[Finding], learners: Sequence[str]) -> list[Finding]:
    """Findings that all outermost modules share become one finding with them as its consequences."""
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
        message=f"all {len(group)} watched modules ({named}) have the same problem, so its cause lies outside them;"
        f" for example {first.message}",
        evidence=Evidence(
            first.evidence.metric,
            sum(values) / len(values),
            first.evidence.threshold,
            first.evidence.first_step,
            last,
        ),
        consequences=tuple(group),
    )
