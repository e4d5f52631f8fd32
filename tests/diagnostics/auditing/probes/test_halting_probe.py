"""Halting."""

from __future__ import annotations

from tests.diagnostics.rules.trainings import HEALTHY, Cases, halting

CASES: Cases = {
    "HALT001": (
        halting([-1.0, -2.0, -3.0, -4.0], [True, True, False, False]),
        halting([2.0, 1.0, -1.0, -2.0], [True, True, False, False]),
    ),
    "HALT002": (halting([1.0, 1.0, -1.0, -1.0], [True, True, False, False]), HEALTHY),
}
