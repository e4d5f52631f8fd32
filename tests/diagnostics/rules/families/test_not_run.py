"""Rules that did not run."""

from __future__ import annotations

from tests.diagnostics.rules.trainings import HEALTHY, Cases, complete

CASES: Cases = {
    "RULE001": (HEALTHY, complete),
}
