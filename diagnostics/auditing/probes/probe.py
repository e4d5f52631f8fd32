"""What a probe is: one question about a model that its gradients do not answer; `audit(..., probes=[...])` runs it.

A probe is anything with a `rule`, the id of its findings, and `run(model, batch) -> list[Finding]`. Your own
probe is a class in a file of yours that makes its findings with `probe_finding` (docs/toolkit.md). The audit runs each
probe once, on the last batch, after the steps, and restores the model. A probe that raises ends the audit: a missing
answer is not the same as no finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, Protocol

from torch import nn

from diagnostics.errors import InvalidType
from diagnostics.findings import Evidence, Finding, Severity
from diagnostics.recording.calls.module_graph import Flow
from diagnostics.rules.registry import built_in_rules
from diagnostics.rules.rule import Rule


class Probe(Protocol):
    """One question about a model."""

    @property
    def rule(self) -> str:
        """Id of its findings, such as CONTEXT001; `select` and `ignore` accept it."""
        ...

    def run(self, model: nn.Module, batch: Any) -> list[Finding]:
        """Return what is wrong, or an empty list. It may leave the model changed."""
        ...


def probe_finding(
    rule: str,
    message: str,
    *,
    metric: str,
    value: float,
    threshold: float | None,
    cause: str,
    remedy: str,
    module: str = "",
    severity: Severity = Severity.CRITICAL,
    code: str = "",
) -> Finding:
    """A finding of a probe, at step 0.

    Args:
        rule: Id of the finding, such as DEAD001.
        message: One sentence.
        metric: Name of the measured number.
        value: The measured number.
        threshold: The bound that was crossed, None where there is none.
        cause: The likely cause, a sentence.
        remedy: Instruction to the user, a sentence.
        module: Name of the module, "" for the whole model.
        severity: Severity of the finding.
        code: Stable name of the cause, for a rule that can name several: a baseline identifies a finding by rule,
            module and code.
    """
    evidence = Evidence(metric, value, threshold, 0, 0)
    return Finding(rule, severity, module, message, evidence, cause, remedy, code=code)


def check_probe(probe: Any, source: str = "probes") -> Probe:
    """Refuse an object that is not a probe.

    Args:
        probe: Anything.
        source: Origin of the object, for the message.

    Raises:
        InvalidType: It lacks `rule` or `run`.
    """
    if isinstance(probe, type) or not isinstance(getattr(probe, "rule", None), str) or not _runs(probe):
        kind = (
            f"the class {probe.__name__}"
            if isinstance(probe, type)
            else f"an object of type {type(probe).__name__}"
        )
        raise InvalidType(
            "probes.not-a-probe",
            "{source}: expected a probe, an object with a text `rule` and a method run(model, batch), found {got}",
            source=source,
            got=kind,
        )
    return probe  # type: ignore[no-any-return]  # its parts were looked at


def explain_by_probes(
    found: Iterable[Finding], probed: Iterable[Finding], flow: Flow | None = None
) -> list[Finding]:
    """The findings of a monitor and of probes; a probe's finding holds those that its rule explains in its modules.

    Args:
        flow: Which module feeds which, for what a rule explains upstream.
    """
    rules = {rule.id: rule for rule in built_in_rules()}
    left, causes = list(found), []
    for cause in _fold_at_loss(list(probed), rules):
        rule = rules.get(cause.rule)
        modules = {cause.module, *(each.module for each in cause.consequences)}
        held = [each for each in left if rule and _is_explained(each, rule, modules, flow)]
        left = [each for each in left if each not in held]
        flat = [each for one in held for each in (replace(one, consequences=()), *one.consequences)]
        causes.append(replace(cause, consequences=(*cause.consequences, *flat)))
    return [*left, *causes]


def _fold_at_loss(probed: Sequence[Finding], rules: Mapping[str, Rule]) -> list[Finding]:
    """The findings of probes; one of the loss holds those of other probes that its rule explains upstream."""
    left = list(probed)
    for cause in probed:
        rule = rules.get(cause.rule)
        held = [each for each in left if rule and not cause.module and each.rule in rule.upstream]
        if held:
            flat = [each for one in held for each in (replace(one, consequences=()), *one.consequences)]
            joined = replace(cause, consequences=(*cause.consequences, *flat))
            left = [joined if each is cause else each for each in left if each not in held]
    return left


def _is_explained(finding: Finding, rule: Rule, modules: Set[str], flow: Flow | None) -> bool:
    if finding.rule in rule.explains and _is_inside(finding, modules):
        return True
    if finding.rule in rule.upstream and "" in modules:
        return True  # all modules feed what is wrong at the loss
    members = {each.module for each in finding.consequences if each.rule == finding.rule}
    places = {finding.module} if finding.module else members  # one of the whole model stands for its members
    if finding.rule in rule.upstream and not places and finding.evidence.metric == "parameters":
        return True  # the model's own parameters: any module may be given them
    if flow is None or not places:
        return False
    feeds = all(any(flow.feeds(each, module) for module in modules) for each in places)
    fed = all(any(flow.feeds(module, each) for module in modules) for each in places)
    return (finding.rule in rule.upstream and feeds) or (finding.rule in rule.downstream and fed)


def _is_inside(finding: Finding, modules: Set[str]) -> bool:
    """Whether it is about these modules alone; one of the whole model may stand for all that are watched."""
    members = {each.module for each in finding.consequences}
    return finding.module in modules or (not finding.module and bool(members) and members <= modules)


def _runs(probe: Any) -> bool:
    return callable(getattr(probe, "run", None))


def run_probe(probe: Probe, model: nn.Module, batch: Any) -> list[Finding]:
    """The findings of a probe on one batch.

    Raises:
        InvalidType: The probe returns something else than findings.
    """
    returned: Any = probe.run(model, batch)
    findings: list[Any] = list(returned) if isinstance(returned, Iterable) else [returned]
    for finding in findings:
        if not isinstance(finding, Finding):
            raise InvalidType(
                "probes.not-findings",
                "the probe {rule} must return a list of diagnostics.Finding, found {got!r}",
                rule=probe.rule,
                got=finding,
            )
    return findings
