"""Records of a result refuse what they do not know, however they are made."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from etrm.investigation.evidence.table import Direction, EvidenceRow, Metric
from etrm.investigation.hypotheses.hypothesis import Statement
from etrm.investigation.judgement import Judgement
from etrm.investigation.records import Arm, NotMeasured, Verdict
from etrm.investigation.result import ExperimentResult, HypothesisResult

ROOT = Path(__file__).parents[2]
METRIC = Metric("test.metric", "a metric", Direction.EQUAL)
STATEMENT = Statement("H9", "t", "s", "r", "m", "mechanistic", "w")
SOUND: dict[str, Any] = {
    "code": "test.metric",
    "metric": "a metric",
    "direction": "equal",
    "treatment": 1.0,
    "threshold": "1",
    "n": "1",
}


def row(**changes: Any) -> EvidenceRow:
    return EvidenceRow(**SOUND | changes)


def test_the_row_that_the_others_change_is_sound() -> None:
    assert row() == METRIC.row(1.0, threshold="1", n="1")


@pytest.mark.parametrize(
    "change",
    [
        {"direction": "sideways"},
        {"direction": "must be equal"},  # the words of a page
        {"treatmnt": 1.0},
        {"code": "no dots"},
        {"code": "Two.Words"},
        {"code": ""},
        {"treatment": "many"},
        {"direction": "context", "passed": True},
        {"direction": "context", "passed": False},
    ],
    ids=str,
)
def test_a_row_refuses_what_it_does_not_know_when_it_is_made_and_when_it_is_changed(
    change: dict[str, Any],
) -> None:
    with pytest.raises(ValidationError):
        row(**change)
    with pytest.raises(ValidationError):
        row().replace(**change)


def test_a_record_cannot_be_changed_without_validation() -> None:
    with pytest.raises(TypeError):
        row().model_copy(update={"direction": "sideways"})
    assert row().model_copy() == row()
    assert row().replace(treatment=2.0) == row(treatment=2.0)


def test_arms_and_hypotheses_refuse_what_they_do_not_know() -> None:
    arm = Arm(name="a", role="subject", difference="")
    found = STATEMENT.decided(Judgement(Verdict.ERROR, ("test.why",), "words"))
    for record, change in (
        (arm, {"role": "onlooker"}),
        (arm, {"nmae": "b"}),
        (found, {"codes": ()}),
        (found, {"codes": ("Not a code",)}),
        (found, {"verdict": "MAYBE"}),
    ):
        with pytest.raises(ValidationError):
            record.replace(**change)
    with pytest.raises(ValidationError):
        STATEMENT.decided(Judgement(Verdict.ERROR, ("test.why",), "words"), evidnce=())


@given(st.floats(), st.floats(), st.floats(), st.sampled_from([True, False, None]))
def test_what_is_not_finite_is_absent_and_passes_nothing(
    value: float, low: float, high: float, passed: bool | None
) -> None:
    found = row(treatment=value, control=value, low=low, high=high, passed=passed)
    if math.isfinite(value):
        assert (found.treatment, found.control, found.passed) == (value, value, passed)
    else:
        assert isinstance(found.treatment, NotMeasured)
        assert isinstance(found.control, NotMeasured)
        assert found.passed is (None if passed else passed)
    ends = [None if not math.isfinite(end) else end for end in (low, high)]
    assert [found.low, found.high] == ends
    assert EvidenceRow.model_validate_json(found.model_dump_json()) == found


def test_two_rows_of_a_table_have_other_names() -> None:
    found = STATEMENT.decided(Judgement(Verdict.ERROR, ("test.why",), "words"))
    assert len(found.replace(evidence=(row(item="a"), row(item="b"))).evidence) == 2
    for twice in ((row(), row()), (row(item="a"), row(item="a", treatment=2.0, metric="other words"))):
        with pytest.raises(ValidationError):
            found.replace(evidence=twice)


def test_a_scenario_is_one_of_those_that_there_are() -> None:
    facts: dict[str, Any] = {
        "id": "x",
        "title": "",
        "question": "",
        "codes": ("test.why",),
        "sentence": "",
        "scenarios": (),
        "screening": False,
    }
    assert ExperimentResult(scenario="B", **facts).scenario == "B"
    with pytest.raises(ValidationError):
        ExperimentResult(scenario="D", **facts)


def test_reasons_are_kept_in_json() -> None:
    found = STATEMENT.decided(Judgement(Verdict.VALIDATED, ("test.one", "test.two"), "words"))
    again = HypothesisResult.model_validate_json(found.model_dump_json())
    assert again.codes == ("test.one", "test.two")


@pytest.mark.parametrize("package", ["etrm", "reports"])
def test_no_module_makes_a_record_without_validation(package: str) -> None:
    """``model_copy(update=...)`` and ``model_construct`` accept a misspelt key and any value."""
    found = []
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            unchecked = node.func.attr == "model_construct" or (
                node.func.attr == "model_copy" and any(k.arg in (None, "update") for k in node.keywords)
            )
            if unchecked:
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert found == []
