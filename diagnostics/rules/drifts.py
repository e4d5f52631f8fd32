"""Turns the drifts that probes found into findings."""

from __future__ import annotations

from collections.abc import Mapping

from diagnostics.findings import Evidence, Finding, Severity
from diagnostics.measures.drift import DriftProbe
from diagnostics.measures.series import DriftEvent
from diagnostics.rules import causes
from diagnostics.rules.registry import find_rule


def drifts(probes: Mapping[str, DriftProbe]) -> list[Finding]:
    """One finding per drift of each module; spikes of a probe are SPIKE001's, which sees every step.

    A drift that was under way when the reference ended is a note: nothing shows that the output was steady before,
    and learning from a random start looks the same.
    """
    return [
        _finding(name, event)
        for name, probe in probes.items()
        for event in probe.events()
        if event.kind == "drift"
    ]


def _finding(name: str, event: DriftEvent) -> Finding:
    rule = find_rule("DRIFT001")
    return rule.finding(
        name,
        f"{name}: its output on the probe batch drifts by {event.size:.3g} reference spreads"
        f" from step {event.first_step} to {event.last_step}",
        Evidence(rule.metric, event.size, event.threshold, event.first_step, event.last_step),
        causes.UNDER_WAY if event.under_way else causes.OWN_WEIGHTS,
        Severity.NOTE if event.under_way else None,
    )
