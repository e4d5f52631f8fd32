"""Waste: rows computed for nothing."""

from __future__ import annotations

from tests.diagnostics.rules.trainings import Cases, cut_rows

CASES: Cases = {
    "WASTE001": (cut_rows(3), cut_rows(6)),
}


def test_at_the_limit_a_step_counts() -> None:
    assert "WASTE001" in cut_rows(4)()  # of 8 rows: waste 0.5, the default of `above`
