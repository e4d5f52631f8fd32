"""The picture of the stages: the largest difference of each stage, in the order of the pipeline."""

from __future__ import annotations

import pytest

from etrm.investigation.result import RecordedDeparture, ReferenceResult
from etrm.reference.departure import PipelineStage
from reports.plots.stage_differences import MOST, draw_stages, measure_stages


def departure(stage: PipelineStage, size: float, limit: float) -> RecordedDeparture:
    return RecordedDeparture(stage=stage, tensor="t", size=size, limit=limit)


FOUND = (
    departure(PipelineStage.GRADIENT, 0.5, 0.001),
    departure(PipelineStage.CONTEXT, 0.02, 0.001),
    departure(PipelineStage.GRADIENT, 0.1, 0.001),
    departure(PipelineStage.LABELS, 0.5, 0.0),
    departure(PipelineStage.SCORE, 1e300, 0.001),
)


def test_the_largest_ratio_of_each_stage_in_order() -> None:
    found = measure_stages(FOUND)
    assert list(found) == [
        PipelineStage.CONTEXT,
        PipelineStage.LABELS,
        PipelineStage.GRADIENT,
        PipelineStage.SCORE,
    ]
    assert found[PipelineStage.CONTEXT] == pytest.approx(20)
    assert found[PipelineStage.GRADIENT] == pytest.approx(500)
    assert found[PipelineStage.LABELS] == found[PipelineStage.SCORE] == MOST


def test_it_is_drawn() -> None:
    reference = ReferenceResult(
        codes=("reference.departs-in-the-run",),
        sentence="It departs.",
        stage=PipelineStage.CONTEXT,
        hypothesis="H3",
        departures=FOUND,
    )
    assert draw_stages(reference).startswith(b"\x89PNG")
