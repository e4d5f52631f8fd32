"""What an assertion raises: findings and a table, in one message."""

from __future__ import annotations

from collections.abc import Sequence

from diagnostics.findings import Evidence, Finding
from diagnostics.rules.causes import Cause
from diagnostics.rules.registry import find_rule

_SHOWN = 5


class CheckFailed(AssertionError):
    """An assertion of the toolkit failed.

    Attributes:
        findings: What is wrong.
        table: The modules, as text.
    """

    def __init__(self, findings: Sequence[Finding], table: str) -> None:
        self.findings = tuple(findings)
        self.table = table
        super().__init__(f"{_paragraphs(self.findings)}\n\n{table}")


def failure(
    rule: str,
    module: str,
    message: str,
    value: float,
    threshold: float | None,
    cause: Cause,
    steps: int = 1,
    metric: str = "",
) -> Finding:
    """A finding under a known rule, over steps 0..steps-1.

    Args:
        metric: What was measured, where it is not the rule's metric.
    """
    known = find_rule(rule)
    evidence = Evidence(metric or known.metric, value, threshold, 0, steps - 1)
    return known.finding(module, message, evidence, cause)


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
