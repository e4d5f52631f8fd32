"""Findings: what is wrong, with evidence, likely cause and remedy; as text, markdown and JSON."""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


class Severity(enum.IntEnum):
    """How bad it is; larger is worse, so that findings can be compared and filtered."""

    NOTE = 1
    WARNING = 2
    CRITICAL = 3

    @property
    def label(self) -> str:
        """Lower-case name."""
        return self.name.lower()


@dataclass(frozen=True)
class Evidence:
    """The measurement behind a finding: a mean over `first_step`..`last_step`, both included.

    Attributes:
        threshold: The bound that was crossed; None where the rule has none.
    """

    metric: str
    value: float
    threshold: float | None
    first_step: int
    last_step: int


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        rule: Stable id, for instance COV001; `diagnostics.explain(rule)` documents it.
        module: The watched module, or "" for the whole model.
        message: One sentence.
        cause: The likely cause; `remedy`: what to do.
        consequences: Findings that this one explains; they have none themselves.
    """

    rule: str
    severity: Severity
    module: str
    message: str
    evidence: Evidence
    cause: str
    remedy: str
    consequences: tuple[Finding, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Identity across runs, for baselines: rule, module and cause, never the numbers."""
        return hashlib.sha256(f"{self.rule}|{self.module}|{self.cause}".encode()).hexdigest()[:16]


def to_markdown(findings: Iterable[Finding]) -> str:
    """A heading per finding, worst first."""
    found = ordered(findings)
    if not found:
        return "No findings.\n"
    return "\n".join(_section(finding) for finding in found)


def to_json(findings: Iterable[Finding]) -> str:
    """A JSON array, worst first; severities by name, numbers that are not finite as null."""
    return json.dumps([_as_dict(finding) for finding in ordered(findings)], indent=2, allow_nan=False)


def _section(finding: Finding) -> str:
    evidence = finding.evidence
    bound = "" if evidence.threshold is None else f" (threshold {evidence.threshold:g})"
    return (
        f"## {finding.severity.label}: {finding.rule} {finding.module or 'model'}\n\n"
        f"{finding.message}\n\n"
        f"- Evidence: {evidence.metric} = {evidence.value:.4g}{bound},"
        f" steps {evidence.first_step} to {evidence.last_step}\n"
        f"- Likely cause: {finding.cause}\n"
        f"- What to do: {finding.remedy}\n" + _explained(finding)
    )


def _explained(finding: Finding) -> str:
    if not finding.consequences:
        return ""
    return "- Explains:\n" + "".join(f"  - {consequence_line(follows)}\n" for follows in finding.consequences)


def consequence_line(finding: Finding) -> str:
    """A consequence in one line, for under its cause."""
    return f"{finding.rule} {finding.message} (from step {finding.evidence.first_step})"


def _as_dict(finding: Finding) -> dict[str, Any]:
    record = asdict(finding)
    record["consequences"] = [_as_dict(follows) for follows in finding.consequences]
    record["severity"] = finding.severity.label
    record["fingerprint"] = finding.fingerprint
    evidence = record["evidence"]
    evidence["value"] = evidence["value"] if math.isfinite(evidence["value"]) else None
    return record


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Worst first, then by rule and module."""
    return sorted(findings, key=lambda finding: (-finding.severity, finding.rule, finding.module))
