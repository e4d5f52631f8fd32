"""The section on the reference, from results written by hand."""

from __future__ import annotations

import sys

from etrm.investigation.result import RecordedDeparture, ReferenceResult
from etrm.reference.departure import PipelineStage
from reports.pages.reference_section import reference_section


def test_departures_stand_in_their_order_with_the_hypothesis() -> None:
    found = ReferenceResult(
        codes=("reference.departs-in-shared-code",),
        sentence="Step 3 departs.",
        steps=(1, 2, 3),
        stage=PipelineStage.CONTEXT,
        hypothesis="H3",
        shared=True,
        departures=(
            RecordedDeparture(
                stage=PipelineStage.CONTEXT, tensor="context", size=sys.float_info.max, limit=0.1, step=3
            ),
            RecordedDeparture(
                stage=PipelineStage.SCORE, tensor="report", size=0.25, limit=0.0, where="task a|b"
            ),
        ),
    )
    page = reference_section(found, {"H3": "h3.md"})
    assert "[H3](h3.md)" in page
    first, second = (line for line in page.splitlines() if line.startswith(("| context", "| score")))
    assert "not finite" in first
    assert "0.25" in second


def test_earlier_results_have_no_section() -> None:
    assert reference_section(None, {}) == ""
