"""Shared parameters."""

from __future__ import annotations

from tests.diagnostics.rules.trainings import HEALTHY, Cases, changed, tied_head

CASES: Cases = {
    "SHARE001": (changed(tied_head), HEALTHY),
}
