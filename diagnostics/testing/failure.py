"""The error of a failed assertion: findings and a table, in one message."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from diagnostics.causes import Cause
from diagnostics.findings import Evidence, Finding, Severity
from diagnostics.rules.rule import Rule

_WIDTH = 76  # pytest puts four characters before each line


class CheckFailed(AssertionError):
    """An assertion of the toolkit failed.

    Attributes:
        findings: Findings that made it fail.
        table: The modules, as text.
    """

    def __init__(self, findings: Sequence[Finding], table: str) -> None:
        self.findings = tuple(findings)
        self.table = table
        super().__init__(f"{_headline(self.findings)}\n\n{table}")


CheckFailed.__module__ = "diagnostics"  # its public name, which pytest prints


def failure(
    rule: Rule,
    module: str,
    message: str,
    value: float,
    threshold: float | None,
    cause: Cause,
    steps: int = 1,
    metric: str = "",
    severity: Severity | None = None,
) -> Finding:
    """A finding of a rule over steps 0..steps-1.

    Args:
        rule: The rule.
        module: Name of the module, "" for the whole model.
        message: One sentence.
        value: The measured number.
        threshold: The bound that was crossed, None where there is none.
        cause: One of the rule's causes, with its facts.
        steps: Number of steps.
        metric: Name of the measured number, where it is not the rule's metric.
        severity: Severity where it is not the rule's.
    """
    evidence = Evidence(metric or rule.metric, value, threshold, 0, steps - 1)
    return rule.finding(module, message, evidence, cause, severity)


def _headline(findings: Sequence[Finding]) -> str:
    """The first finding with cause and remedy; of the others only which tensors or modules they are about."""
    if not findings:
        return ""
    first, *others = findings
    lines = [
        *_wrapped(f"{first.rule} {first.message}", "  "),
        *_wrapped(f"  likely cause: {first.cause}", "    "),
        *_wrapped(f"  what to do: {first.remedy}", "    "),
    ]
    alike = [finding for finding in others if (finding.rule, finding.code) == (first.rule, first.code)]
    if alike:
        lines += _wrapped(f"  the same: {', '.join(map(_about, alike))}", "    ")
    apart = [finding for finding in others if finding not in alike]
    if apart:
        listed = ", ".join(f"{_about(finding)} ({finding.rule} {finding.code})" for finding in apart)
        lines += _wrapped(f"  also: {listed}", "    ")
    return "\n".join(lines)


def _about(finding: Finding) -> str:
    """The tensor or the module: the first word of the message."""
    return finding.message.partition(" ")[0].rstrip(":")


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_long_words=False)
