"""Origin of the samples."""

from __future__ import annotations

from diagnostics import SampleOrigin
from tests.diagnostics.rules.trainings import Cases, run_probe

CASES: Cases = {
    "ORIGIN001": (
        run_probe(SampleOrigin(lambda batch: range(8), lambda model, batch: range(1, 9))),
        run_probe(SampleOrigin(lambda batch: range(8), lambda model, batch: range(8))),
    ),
}
