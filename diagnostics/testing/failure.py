"""The error of a failed assertion: findings and a table, in one message."""

from __future__ import annotations

from collections.abc import Sequence

from diagnostics.causes import Cause
from diagnostics.findings import Evidence, Finding, Severity
from diagnostics.rules.rule import Rule

_SHOWN = 5  # findings in a message, so that the table below them stays in sight


class CheckFailed(AssertionError):
    """An assertion of the toolkit failed.

    Attributes:
        findings: Findings that made it fail.
        table: The modules, as text.
    """

    def __init__(self, findings: Sequence[Finding], table: str) -> None:
        self.findings = tuple(findings)
        self.table = table
        super().__init__(f"{_paragraphs(self.findings)}\n\n{table}")


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


def _paragraphs(findings: Sequence[Finding]) -> str:
    """The first few messages, each cause once under the messages that it explains, each remedy once."""
    lines: list[str] = []
    shown = findings[:_SHOWN]
    for finding, following in zip(shown, [*shown[1:], None], strict=True):
        lines.append(f"{finding.rule} {finding.message}")
        if following is None or following.cause != finding.cause:
            lines.append(f"    likely cause: {finding.cause}")
    if len(findings) > _SHOWN:
        lines.append(f"and {len(findings) - _SHOWN} more")
    lines += [f"what to do: {remedy}" for remedy in dict.fromkeys(finding.remedy for finding in findings)]
    return "\n".join(lines)
