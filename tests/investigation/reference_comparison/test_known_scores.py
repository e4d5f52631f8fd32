"""Scores that a short run does not have."""

from __future__ import annotations

import pytest

from etrm.evaluation import EvaluationReport
from etrm.investigation.reference_comparison.known_scores import compare_known_scores
from etrm.reference.departure import PipelineStage
from etrm.training.scoring.held_out_curve import HeldOutScore


def test_the_curve_of_a_run_departs_nowhere() -> None:
    assert list(compare_known_scores()) == []


def test_a_curve_of_queries_is_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_queries(report: EvaluationReport, seconds: float) -> HeldOutScore:
        return HeldOutScore(report.pass_at[1].score, report.token_accuracy, seconds, report.samples)

    monkeypatch.setattr(HeldOutScore, "of", of_queries)
    assert [found.stage for found in compare_known_scores()] == [PipelineStage.SCORE]


def test_another_order_is_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeldOutScore, "order", property(lambda self: (self.token_accuracy, self.solved)))
    assert [found.stage for found in compare_known_scores()] == [PipelineStage.WEIGHTS]
