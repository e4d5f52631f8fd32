"""N3 by planted responses, and from end to end: lost assignments leave a loss that no weight changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from diagnostics.auditing.responses import TermResponse
from etrm.config import load, with_settings
from etrm.investigation.hypotheses import n3_answer_response as n3
from etrm.investigation.hypotheses.n3_answer_response import FAULT, ROUNDING, ResponseFacts, ResponseReason
from etrm.investigation.measurements.solver_step import QUERIES
from etrm.investigation.records import Verdict
from etrm.investigation.session import Investigation


def facts(change: float) -> ResponseFacts:
    return ResponseFacts({"": TermResponse("healthy", "some", 1.0, QUERIES * change, 0.01)})


@pytest.mark.parametrize(
    ("change", "holds", "code"),
    [
        (0.0, True, ResponseReason.CONSTANT),
        (ROUNDING, True, ResponseReason.CONSTANT),
        (2 * ROUNDING, False, ResponseReason.RESPONDS),
    ],
)
def test_a_loss_that_moves_by_rounding_alone_is_constant(change: float, holds: bool, code: str) -> None:
    assert (facts(change).holds, facts(change).codes) == (holds, (code,))


@pytest.mark.parametrize(("fault", "verdict"), [("", Verdict.INVALIDATED), (FAULT, Verdict.VALIDATED)])
def test_lost_assignments_are_named_and_a_healthy_solver_is_not(
    investigation: Investigation,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fault: str,
    verdict: Verdict,
) -> None:
    monkeypatch.setenv("ETRM_CACHE", str(tmp_path / "cache"))
    investigation.subject = with_settings(
        load("symbolic-rules"),
        faults=(fault,) if fault else (),
        data={"max_tasks": 8, "max_side": 3},
        evaluate={"max_tasks": 8},
        model={"symbolic": {"guards": 2, "width": 4}},
        train={"batch_size": 4},
    )
    found = n3.HYPOTHESIS.decide(investigation)
    assert found.verdict is verdict, found.sentence
    assert [(control.kind, control.behaved) for control in found.controls] == [
        ("negative", True),
        ("positive", True),
    ]
    rows = {row.item: row for row in found.evidence}
    assert set(rows) == {"model", "encoder", "core"}
    assert rows["model"].passed is (verdict is Verdict.INVALIDATED)
