"""The gradients and the movement of the encoder on every step that a run logged, not only on its first ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.recorded_run.recorded_findings import stands_still
from etrm.investigation.recorded_run.run_under_test import RunUnderTest

UNCOVERED = Metric("run.uncovered-steps", "logged steps with encoder coverage below 1", Direction.HOLDS)
WITHOUT_GRADIENT = Metric(
    "run.steps-without-gradient", "logged steps without encoder gradient", Direction.HOLDS
)
WITHOUT_MOVEMENT = Metric(
    "run.steps-without-movement", "logged steps on which the encoder does not move", Direction.HOLDS
)
NOT_FINITE = Metric("run.steps-not-finite", "logged steps with a number that is not finite", Direction.HOLDS)
FEWEST = 5
"""Steps with a fault from which it counts, as for the toolkit's rules."""
DENSEST = 0.2
"""Share of the steps from its first one on that must have the fault: one bucket of several, or one phase of a schedule,
is enough, and single steps of a long run, whose gradients can underflow, are not."""

CHECKS: tuple[tuple[Metric, Callable[[dict[str, Any]], bool]], ...] = (
    (UNCOVERED, lambda m: m.get("encoder.coverage") is None or m["encoder.coverage"] < 1),
    (WITHOUT_GRADIENT, lambda m: not m.get("encoder.grad_norm_pre_clip")),
    (WITHOUT_MOVEMENT, lambda m: m.get("encoder.moved") == 0),
)


def judge_logged_steps(run: RunUnderTest) -> Iterator[RecordedFact]:
    """Rows about the steps on which the toolkit recorded an encoder that the settings train."""
    broken = [m["step"] for m in run.metrics if m.get("nonfinite") or m["loss"] is None]
    yield RecordedFact(
        NOT_FINITE.expect_none(len(broken), f"{len(run.metrics)} logged steps"),
        ("H4",),
        words=f"{len(broken)} logged steps have numbers that are not finite",
    )
    steps = [m for m in run.metrics if "encoder.calls" in m and m.get("frozen") != "encoder"]
    if not steps or stands_still(run.used, "encoder"):
        return
    for metric, fails in CHECKS:
        bad = [m["step"] for m in steps if fails(m)]
        since = sum(m["step"] >= bad[0] for m in steps) if bad else 0
        passed = len(bad) < FEWEST or len(bad) < DENSEST * since
        row = metric.row(
            len(bad),
            threshold=f"fewer than {FEWEST}, or than {DENSEST:.0%} of the steps from the first one on",
            passed=passed,
            n=f"{len(steps)} steps",
            note=f"from step {bad[0]} to step {bad[-1]}" if bad else "",
        )
        words = f"{len(bad)} {metric.words}, from step {bad[0]} on" if bad else ""
        yield RecordedFact(row, ("H2",), proves=True, words=words)
