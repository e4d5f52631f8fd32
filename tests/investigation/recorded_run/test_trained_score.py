"""What trained weights achieve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from etrm.investigation.recorded_run.trained_score import _describe_controls, judge_trained_score
from etrm.training.scoring.predictor import compute_mean_loss
from tests.investigation.recorded_run.test_saved_weights import alter


def test_a_healthy_run_is_below_its_random_start(kept_healthy: Path) -> None:
    run = RunUnderTest.read(kept_healthy)
    facts = {(fact.row.code, fact.row.item): fact for fact in judge_trained_score(run)}
    raw, averaged = facts["run.loss", "raw"].row, facts["run.loss", "averaged"].row
    assert raw.passed
    assert averaged.passed
    assert raw.control == averaged.control == compute_mean_loss(run.start.model, run.queries)
    assert facts["run.loss-earlier", ""].row.control == raw.treatment
    assert facts["run.loss-mismatched", ""].row.control == raw.treatment
    assert facts["run.held-out", "held-out-tasks"].row.n.startswith("4 ")
    assert not any(fact.row.passed is False for fact in facts.values())


def test_the_named_baseline_is_the_best_by_the_score_of_the_row() -> None:
    """The best by tokens was named with the number of the best by solved tasks."""
    assert "(all black): 0.250" in _describe_controls({"copy input": 0.0, "all black": 0.25})


def test_weights_that_are_no_better_than_untrained_ones_are_evidence_for_h4(healthy: Path) -> None:
    start = RunUnderTest.read(healthy).start.model.state_dict()
    alter(healthy, lambda c: replace(c, model=dict(start)))
    (fact,) = [fact for fact in judge_trained_score(RunUnderTest.read(healthy)) if fact.row.passed is False]
    assert (fact.row.code, fact.row.item, fact.hypotheses, fact.proves) == ("run.loss", "raw", ("H4",), False)
    assert fact.row.treatment == fact.row.control


def test_a_run_of_a_few_steps_need_not_be_better(kept_healthy: Path) -> None:
    run = RunUnderTest.read(kept_healthy)
    early = replace(run.checkpoints[0], step=3)
    run.__dict__["checkpoints"] = (early,)
    rows = [fact.row.passed for fact in judge_trained_score(run) if fact.row.code == "run.loss"]
    assert rows == [None, None]
