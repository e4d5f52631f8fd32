"""Turns the drifts that probes found into findings."""

from __future__ import annotations

from collections.abc import Mapping

from diagnostics.drift import DriftProbe
from diagnostics.findings import Evidence, Finding
from diagnostics.rules import find_rule


def drifts(probes: Mapping[str, DriftProbe]) -> list[Finding]:
    """One finding per drift of each module; spikes of a probe are SPIKE001's, which sees every step."""
    rule = find_rule("DRIFT001")
    return [
        Finding(
            rule=rule.id,
            severity=rule.severity,
            module=name,
            message=f"{name}: its output on the probe batch drifts by {event.size:.3g} reference spreads"
            f" from step {event.first_step} to {event.last_step}",
            evidence=Evidence(rule.metric, event.size, event.threshold, event.first_step, event.last_step),
            cause="its weights, or a state that it keeps: the probe batch is the same every time",
            remedy=rule.remedy,
        )
        for name, probe in probes.items()
        for event in probe.events()
        if event.kind == "drift"
    ]
