"""N4 by planted gradients of terms, and from end to end: a hard choice leaves the selector to the penalty."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from diagnostics.auditing.responses import TermResponse
from etrm.config import load, with_settings
from etrm.investigation.hypotheses import n4_regulariser as n4
from etrm.investigation.hypotheses.n4_regulariser import FAULT, TeacherFacts, TeacherReason
from etrm.investigation.records import Verdict
from etrm.investigation.session import Investigation

Kind = Literal["none", "zero", "some"]


def facts(**kinds: Kind) -> TeacherFacts:
    return TeacherFacts({name: TermResponse("healthy", kind, 1.0, 1.0, 0.01) for name, kind in kinds.items()})


@pytest.mark.parametrize(
    ("found", "holds", "code"),
    [
        (facts(lm="some", entropy="some"), False, TeacherReason.TASK),
        (facts(lm="some"), False, TeacherReason.TASK),
        (facts(lm="none", entropy="some"), True, TeacherReason.REGULARISER_ALONE),
        (facts(lm="zero", entropy="some"), True, TeacherReason.REGULARISER_ALONE),
        (facts(lm="none", entropy="zero"), False, TeacherReason.NOTHING),
        (facts(lm="none"), False, TeacherReason.NOTHING),
    ],
)
def test_a_regulariser_alone_is_one_without_the_answers(found: TeacherFacts, holds: bool, code: str) -> None:
    assert (found.holds, found.codes) == (holds, (code,))


@pytest.mark.parametrize(
    ("fault", "penalty", "verdict"),
    [
        ("", 0.01, Verdict.INVALIDATED),
        (FAULT, 0.01, Verdict.VALIDATED),
        (FAULT, 0.0, Verdict.INVALIDATED),
    ],
)
def test_a_hard_choice_with_a_penalty_is_named(
    investigation: Investigation,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fault: str,
    penalty: float,
    verdict: Verdict,
) -> None:
    monkeypatch.setenv("ETRM_CACHE", str(tmp_path / "cache"))
    investigation.subject = with_settings(
        load("symbolic-rules"),
        faults=(fault,) if fault else (),
        data={"max_tasks": 8, "max_side": 3},
        evaluate={"max_tasks": 8},
        model={"symbolic": {"guards": 2, "width": 4}},
        train={"batch_size": 4, "entropy_weight": penalty},
    )
    found = n4.HYPOTHESIS.decide(investigation)
    assert found.verdict is verdict, found.sentence
    assert [(control.kind, control.behaved) for control in found.controls] == [
        ("negative", True),
        ("positive", True),
    ]
    rows = {row.item: row for row in found.evidence}
    assert rows["lm"].passed is not bool(fault)
    assert ("entropy" in rows) is bool(penalty)
