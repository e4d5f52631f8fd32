"""A recorded run against the course of its preset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from etrm.config import with_settings
from etrm.investigation.recorded_run.course_comparison import compare_with_course
from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from etrm.investigation.records import NotMeasured


def test_a_healthy_run_follows_the_course(kept_healthy: Path) -> None:
    facts = list(compare_with_course(RunUnderTest.read(kept_healthy)))
    assert {fact.row.item for fact in facts} >= {
        "loss",
        "accuracy_all",
        "grad_norm_before_clip",
        "encoder.moved",
    }
    assert all(fact.row.passed for fact in facts)


def test_the_step_from_which_a_run_is_outside_is_named(kept_healthy: Path) -> None:
    run = RunUnderTest.read(kept_healthy)
    late = [m | ({"encoder.moved": 1e-9} if m["step"] > 10 else {}) for m in run.metrics]
    (fact,) = [fact for fact in compare_with_course(replace(run, metrics=late)) if fact.row.passed is False]
    assert (fact.row.item, fact.hypotheses) == ("encoder.moved", ())
    assert "step 11" in fact.words


def test_a_config_of_no_preset_and_other_tasks_are_not_measured(kept_healthy: Path) -> None:
    run = RunUnderTest.read(kept_healthy)

    def absent(other: RunUnderTest) -> str:
        facts: list[RecordedFact] = list(compare_with_course(other))
        assert [fact.row.passed for fact in facts] == [None]
        assert isinstance(facts[0].row.treatment, NotMeasured)
        return facts[0].row.treatment.absent

    assert "smoke" in absent(replace(run, config=with_settings(run.config, train={"lr": 0.5})))
    assert "smoke" in absent(replace(run, record={**run.record, "data_hash": "another"}))
