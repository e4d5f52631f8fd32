"""Coverage: low, partial and unknown."""

from __future__ import annotations

from tests.diagnostics.rules.trainings import HEALTHY, Cases, cut_rows, declared_rows, twice_as_many_rows

CASES: Cases = {
    "COV001": (cut_rows(2), cut_rows(6)),
    "COV002": (cut_rows(6), HEALTHY),
    "COV003": (twice_as_many_rows, declared_rows),
}
