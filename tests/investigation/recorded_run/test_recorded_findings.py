"""Findings of a run as evidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diagnostics.rules.registry import built_in_rules
from etrm.config import load, with_settings
from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.recorded_run.recorded_findings import (
    COLLAPSE,
    GRADIENTS,
    RULES,
    find_hypotheses,
    judge_findings,
    stands_still,
)
from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from etrm.investigation.records import NotMeasured


def finding(rule: str = "GRAD001", module: str = "encoder", last: int = 19, **changes: Any) -> dict[str, Any]:
    evidence = {
        "metric": "output_share",
        "value": 1e-5,
        "threshold": 1e-3,
        "first_step": 3,
        "last_step": last,
    }
    plain = {"severity": "critical", "message": "equal", "cause": "c", "remedy": "r", "code": "swamped"}
    return plain | {"rule": rule, "module": module, "evidence": evidence, "consequences": []} | changes


def judge(folder: Path, *findings: dict[str, Any], **settings: dict[str, object]) -> list[RecordedFact]:
    run = RunUnderTest.read(folder)
    return list(judge_findings(replace(run, findings=findings, config=with_settings(run.config, **settings))))


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, False),
        ({"last": 18}, None),  # it ended before the run did
        ({"last": 30}, None),  # it is of an earlier process
        ({"severity": "warning"}, None),
    ],
)
def test_what_is_critical_and_holds_to_the_end_accuses(
    kept_healthy: Path, changes: dict[str, Any], passed: bool | None
) -> None:
    (fact,) = judge(kept_healthy, finding(**changes))
    assert (fact.row.passed, fact.row.item) == (passed, "GRAD001 encoder")
    assert fact.hypotheses == ("H2", "H4")
    assert not fact.proves


def test_findings_of_a_run_that_has_not_ended_are_not_measured(healthy: Path) -> None:
    (healthy / "findings.json").unlink()
    (fact,) = judge_findings(RunUnderTest.read(healthy))
    assert isinstance(fact.row.treatment, NotMeasured)


def test_a_note_is_left_out_and_rows_of_one_rule_and_module_stay_apart(kept_healthy: Path) -> None:
    assert judge(kept_healthy, finding(severity="note")) == []
    found = judge(kept_healthy, finding(), finding(code="first-equal"), finding(code="first-equal"))
    assert len({fact.row.item for fact in found}) == 3


def test_a_number_that_is_not_finite_is_not_measured(kept_healthy: Path) -> None:
    evidence = finding()["evidence"] | {"value": None}
    (fact,) = judge(kept_healthy, finding(evidence=evidence))
    assert not isinstance(fact.row.treatment, float)
    assert fact.row.passed is False


def test_a_collapse_that_did_not_last_is_undecided(kept_healthy: Path) -> None:
    (fact,) = judge(kept_healthy, finding("COLLAPSE001"))
    assert (fact.row.passed, fact.undecided) == (None, True)
    (rare,) = judge(kept_healthy, finding("COLLAPSE001", last=0), monitor={"every": 20})
    assert (rare.row.passed, rare.undecided) == (None, True)
    run = RunUnderTest.read(kept_healthy)
    long = [run.metrics[0] | {"step": step + 1} for step in range(300)]
    for first, passed in ((100, False), (101, None)):
        evidence = finding()["evidence"] | {"first_step": first, "last_step": 299}
        changed = replace(run, metrics=long, findings=[finding("COLLAPSE001", evidence=evidence)])
        assert [fact.row.passed for fact in judge_findings(changed)] == [passed]


def test_a_part_that_the_settings_freeze_is_expected_to_stand_still(kept_healthy: Path) -> None:
    frozen = {"freeze_encoder_steps": 20}
    assert [f.row.passed for f in judge(kept_healthy, finding("GRAD003"), train=frozen)] == [None]
    assert [f.row.passed for f in judge(kept_healthy, finding("GRAD003", "core"), train=frozen)] == [False]
    assert [f.row.passed for f in judge(kept_healthy, finding("FROZEN001"), train=frozen)] == [False]
    still = with_settings(load("smoke"), train={"encoder_lr_scale": 0.0})
    assert (stands_still(still, "encoder"), stands_still(still, "core")) == (True, False)


def test_every_critical_rule_of_training_is_about_a_hypothesis() -> None:
    """A rule that is added to the toolkit must be assigned here, or a run with its finding would be called healthy."""
    known = {COLLAPSE, *GRADIENTS, *RULES}
    critical = {
        rule.id for rule in built_in_rules() if rule.check is not None and rule.severity.label == "critical"
    }
    assert critical <= known
    assert known <= {rule.id for rule in built_in_rules()}


@pytest.mark.parametrize(
    ("rule", "module", "variant", "first"),
    [
        ("REACH001", "encoder.blocks", "etrm", "H2"),
        ("REACH001", "", "etrm", "H2"),
        ("MOVE001", "core", "etrm", "H4"),
        ("MOVE001", "core", "symbolic", "H2"),  # learned predicates are in the core
        ("FROZEN001", "core", "etrm", "H1"),
        ("GRAD004", "encoder", "etrm", "H4"),
    ],
)
def test_the_hypothesis_of_a_finding(
    kept_healthy: Path, rule: str, module: str, variant: str, first: str
) -> None:
    run = RunUnderTest.read(kept_healthy)
    config = run.config if variant == "etrm" else load("symbolic-rules")
    assert find_hypotheses(rule, module, replace(run, config=config))[0] == first


def test_a_rule_of_the_users_own_is_about_none(kept_healthy: Path) -> None:
    assert find_hypotheses("MINE001", "encoder", RunUnderTest.read(kept_healthy)) == ()
