"""How facts about a recorded run change the verdicts of hypotheses."""

from __future__ import annotations

import pytest

from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses
from etrm.investigation.judgement import CommonReason
from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.recorded_run.recorded_verdicts import (
    accuse,
    add_recorded,
    add_to_others,
    explain_unnamed,
    select_facts,
)
from etrm.investigation.records import Verdict
from etrm.investigation.result import CauseCode, HypothesisResult, RecordedRun

METRIC = Metric("test.planted", "planted", Direction.HOLDS)
REPEATS = Metric("run.steps-repeat", "planted", Direction.EQUAL)
RECORDED = RecordedRun(folder="runs/x", steps=20)


def fact(
    *hypotheses: str, passed: bool = False, proves: bool = False, metric: Metric = METRIC, item: str = ""
) -> RecordedFact:
    row = metric.row(1.0, threshold="0", passed=passed, n="1", item=item)
    return RecordedFact(row, hypotheses, proves, "the encoder stood still")


def planted(id: str, verdict: Verdict = Verdict.INVALIDATED, code: str = "test.planted") -> HypothesisResult:
    return all_hypotheses()[id].not_run(code, "planted").replace(verdict=verdict)


@pytest.mark.parametrize("verdict", [Verdict.INVALIDATED, Verdict.INCONCLUSIVE, Verdict.ERROR])
def test_a_proof_validates_the_hypothesis_for_the_recorded_run(verdict: Verdict) -> None:
    found = add_recorded(planted("H2", verdict), [fact("H2", proves=True)])
    assert (found.verdict, found.candidate) == (Verdict.VALIDATED, False)
    assert found.codes == ("test.planted", CommonReason.RECORDED)
    assert [row.code for row in found.evidence] == ["test.planted"]


def test_what_proves_nothing_makes_a_candidate_but_of_an_error() -> None:
    found = add_recorded(planted("H7"), [fact("H7")])
    assert (found.verdict, found.candidate) == (Verdict.INCONCLUSIVE, True)
    assert add_recorded(planted("H7", Verdict.ERROR), [fact("H7")]).verdict is Verdict.ERROR


def test_a_row_that_passed_is_evidence_and_changes_no_verdict() -> None:
    found = add_recorded(planted("H2"), [fact("H2", passed=True, proves=True)])
    assert (found.verdict, found.candidate, found.codes) == (Verdict.INVALIDATED, False, ("test.planted",))
    assert len(found.evidence) == 1
    validated = add_recorded(planted("H2", Verdict.VALIDATED), [fact("H2", proves=True)])
    assert (validated.verdict, validated.sentence) == (Verdict.VALIDATED, "planted")
    not_run = planted("H2", Verdict.NOT_RUN)
    assert add_recorded(not_run, [fact("H2", proves=True)]) == not_run


def test_a_fact_goes_to_the_first_hypothesis_that_applies() -> None:
    facts = [fact("H7", "N4", "H3"), fact("H2", item="other"), fact(item="none")]
    assert select_facts(facts, "H7") == facts[:1]
    recursive = {id: planted(id) for id in ("H2", "H3", "H7")}
    assert add_to_others(recursive, facts) == recursive  # H7 has it already
    symbolic = recursive | {"H7": planted("H7", Verdict.NOT_RUN, CommonReason.NOT_APPLICABLE)}
    assert add_to_others(symbolic, facts)["H3"].candidate
    named = [one.hypothesis for one in accuse(RECORDED, facts, symbolic).accusations]
    assert named == ["H3", "H2", ""]
    stopped = recursive | {"H7": planted("H7", Verdict.NOT_RUN, CommonReason.STOPPED_AT_ROOT_CAUSE)}
    assert add_to_others(stopped, facts) == stopped


def test_a_proof_counts_as_one_where_there_is_a_hypothesis() -> None:
    facts = [fact("H2", proves=True), fact("H2", proves=True, passed=True, item="passed")]
    (found,) = accuse(RECORDED, facts, {"H2": planted("H2")}).accusations
    assert (found.hypothesis, found.proves) == ("H2", True)
    (alone,) = accuse(RECORDED, facts, {}).accusations
    assert (alone.hypothesis, alone.proves) == ("", False)


def test_a_run_that_shows_a_fault_is_not_answered_with_nothing() -> None:
    assert explain_unnamed(RECORDED) is None
    shown = explain_unnamed(accuse(RECORDED, [fact()], {}))
    assert shown is not None
    assert shown[0] is CauseCode.RECORDED
    other = explain_unnamed(accuse(RECORDED, [fact(metric=REPEATS)], {}))
    assert other is not None
    assert other[0] is CauseCode.OTHER_CODE
