"""Drift on a fixed batch."""

from __future__ import annotations

from tests.diagnostics.rules.trainings import Cases, complete, ramp, train

CASES: Cases = {
    "DRIFT001": (lambda **o: train(steps=60, probe=ramp, **o), complete),
}
