"""The loss does not fall."""

from __future__ import annotations

from tests.diagnostics.rules.trainings import Cases, falls

CASES: Cases = {
    "LOSS001": (falls(0.0), falls(1e-2)),
}
