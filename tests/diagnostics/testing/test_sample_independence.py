"""Samples of a batch influence each other."""

from __future__ import annotations

from tests.diagnostics.rules.trainings import Cases, leak

CASES: Cases = {
    "LEAK001": (leak(True), leak(False)),
}
