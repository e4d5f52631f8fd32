"""Waste: rows computed for nothing."""

from __future__ import annotations

from tests.diagnostics.rules.trainings import Cases, cut_rows

CASES: Cases = {
    "WASTE001": (cut_rows(3), cut_rows(6)),
}
