"""Findings: what is wrong, with evidence, likely cause and remedy; as text, markdown and JSON."""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
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


METRICS: Mapping[str, str] = {
    "calls": "calls",
    "calls_with_gradient": "calls with gradient",
    "coverage": "coverage",
    "decay": "share of the weights that a step takes away",
    "divergence": "divergence per dimension",
    "forced_share": "share of rows that end at the maximum",
    "gradient_ratio": "gradient_max / local median",
    "halted_at_once_share": "share of rows that end at their first step",
    "halting": "share or area under the curve",
    "halting_auroc": "area under the curve of the halting logit",
    "halting_logit_range": "range of the halting logit",
    "layers": "layers",
    "leverage_share": "share of the largest leverage",
    "loss": "loss",
    "loss_change": "relative change of the loss",
    "loss_fall": "relative fall",
    "loss_share": "share of the first loss",
    "mean_halt_step": "mean step at halt",
    "misplaced_samples": "samples in the wrong place",
    "operations": "calls of a function",
    "output_change": "relative change",
    "output_ratio": "output_rms / local median",
    "output_share": "share between samples",
    "parameters": "parameters",
    "passes": "backward passes",
    "repeats": "repetitions of a batch",
    "response": "change of the loss with other weights",
    "rules": "rules",
    "score": "score",
    "spike_ratio": "output_rms or gradient_max / local median",
    "steps": "steps",
    "target_gap": "distance to the source / its norm",
    "task_terms": "terms of the task that train it",
    "tensors": "tensors",
    "time_share": "share of the time",
    "waste": "waste",
    "wasserstein": "sliced Wasserstein / reference spread",
}
"""What each metric of the toolkit measures, by its stable name."""


@dataclass(frozen=True)
class Evidence:
    """The measurement behind a finding: a mean over `first_step`..`last_step`, both included.

    Attributes:
        metric: Stable name of what was measured, a key of `METRICS` or a name of your own.
        threshold: The bound that was crossed; None where the rule has none.
    """

    metric: str
    value: float
    threshold: float | None
    first_step: int
    last_step: int

    @property
    def measure(self) -> str:
        """What was measured, in words."""
        return METRICS.get(self.metric, self.metric)

    def __str__(self) -> str:
        bound = "" if self.threshold is None else f" (threshold {self.threshold:g})"
        return f"{self.measure} = {self.value:.4g}{bound}, steps {self.first_step} to {self.last_step}"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        rule: Stable id, for instance COV001; `diagnostics.explain(rule)` documents it.
        module: The watched module, or "" for the whole model.
        message: One sentence.
        cause: The likely cause in a sentence; `remedy`: what to do.
        consequences: Findings that this one explains; they have none themselves.
        code: Stable name of the cause, one of those that the rule's page lists. "" where a probe of your own
            names none.
        file, line: Where the forward of the module is written, as far as it is known; `monitor.findings()` finds out.
    """

    rule: str
    severity: Severity
    module: str
    message: str
    evidence: Evidence
    cause: str
    remedy: str
    consequences: tuple[Finding, ...] = ()
    code: str = ""
    file: str = ""
    line: int | None = None

    def __str__(self) -> str:
        """A line on what is wrong and where, then evidence, cause, remedy and what it explains."""
        code = _in_brackets(self.code)
        place = f" ({self.file}:{self.line})" if self.file and self.line is not None else ""
        lines = [
            f"{self.severity.label}: {self.rule} {self.module or 'model'}{place}: {self.message}",
            f"evidence: {self.evidence}",
            f"likely cause: {self.cause}{code}",
            f"what to do: {self.remedy}",
            *(f"explains: {consequence_line(follows)}" for follows in self.consequences),
        ]
        return "\n  ".join(lines)

    @property
    def states_cause(self) -> bool:
        """Whether the message already contains the cause, so that a report need not repeat it."""
        return bool(self.cause) and self.cause in self.message

    @property
    def fingerprint(self) -> str:
        """Identity across runs, for baselines: rule, module and code, never numbers or wording."""
        return fingerprint_of(self.rule, self.module, self.code)


def fingerprint_of(rule: str, module: str, code: str) -> str:
    """The identity of a finding: 16 hexadecimal digits."""
    return hashlib.sha256(f"{rule}|{module}|{code}".encode()).hexdigest()[:16]


def to_markdown(findings: Iterable[Finding]) -> str:
    """A heading per finding, worst first."""
    found = ordered(findings)
    if not found:
        return "No findings.\n"
    return "\n".join(_section(finding) for finding in found)


def to_json(findings: Iterable[Finding]) -> str:
    """A JSON array, worst first; severities by name, numbers that are not finite as null."""
    return json.dumps([_as_dict(finding) for finding in ordered(findings)], indent=2, allow_nan=False)


def to_json_lines(findings: Iterable[Finding]) -> str:
    """One JSON object per line and finding, worst first, for programs: flat, consequences by rule and module alone."""
    return "".join(json.dumps(_as_line(finding), allow_nan=False) + "\n" for finding in ordered(findings))


def _as_line(finding: Finding) -> dict[str, Any]:
    record = _as_dict(finding)
    evidence = record.pop("evidence")
    explains = [
        {"rule": each.rule, "module": each.module, "code": each.code} for each in finding.consequences
    ]
    del record["consequences"]
    return {**record, **evidence, "explains": explains}


def _section(finding: Finding) -> str:
    code = _in_brackets(finding.code)
    cause = "" if finding.states_cause else f"- Likely cause: {finding.cause}{code}\n"
    return (
        f"## {finding.severity.label}: {finding.rule} {finding.module or 'model'}\n\n"
        f"{finding.message}{code if finding.states_cause else ''}\n\n"
        f"- Evidence: {finding.evidence}\n{cause}"
        f"- What to do: {finding.remedy}\n" + _explained(finding)
    )


def _in_brackets(code: str) -> str:
    return f" [{code}]" if code else ""


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
