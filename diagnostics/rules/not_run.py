"""Names the rules that could not run: their silence says nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diagnostics.findings import Evidence, Finding
from diagnostics.measures.drift import DriftProbe
from diagnostics.rules import causes
from diagnostics.rules.causes import Cause
from diagnostics.rules.options import Values
from diagnostics.rules.registry import RULES, find_rule


def not_run(
    steps: Sequence[int],
    optimizers: bool,
    probes: Mapping[str, DriftProbe],
    options: Mapping[str, Values],
    every: int,
) -> list[Finding]:
    """One note per reason.

    Args:
        steps: The recorded steps that are still known.
        optimizers: Whether the monitor was given any.
        options: The values of every rule's options.
        every: One step in so many is recorded.
    """
    watching = [rule for rule in RULES if rule.source in ("step", "history")]
    drift = [rule.id for rule in RULES if rule.source == "probe"]
    blind = [rule.id for rule in watching if rule.needs_optimizer and not optimizers]
    early = [rule.id for rule in watching if options[rule.id]["min_steps"] > len(steps)]
    found = [_note("", early, causes.FEW_STEPS, steps)]
    sampled = [rule.id for rule in watching if rule.needs_every_step and every > 1]
    found.append(_note("", sampled, causes.STEPS_LEFT_OUT.of(every=every), steps))
    found.append(_note("", blind, causes.NO_OPTIMIZER, steps))
    if not probes:
        found.append(_note("", drift, causes.NO_PROBE, steps))
    for name, probe in probes.items():
        if probe.blocked is not None:
            found.append(_note(name, drift, probe.blocked, steps))
    return [finding for finding in found if finding.evidence.value]


def _note(module: str, rules: Sequence[str], cause: Cause, steps: Sequence[int]) -> Finding:
    rule = find_rule("RULE001")
    first, last = (steps[0], steps[-1]) if steps else (0, 0)
    message = f"these rules did not run: {', '.join(rules)}"
    return rule.finding(module, message, Evidence(rule.metric, float(len(rules)), None, first, last), cause)
