"""N2 by planted gradients, and from end to end: a read is named, and a loop is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from etrm.config import load, with_settings
from etrm.investigation.hypotheses import n2_predicate_evaluation as n2
from etrm.investigation.hypotheses import symbolic_hypothesis
from etrm.investigation.hypotheses.inspection import judge_inspection
from etrm.investigation.hypotheses.n2_predicate_evaluation import (
    LOOP,
    READ,
    UNREGISTERED,
    EvaluationFacts,
    EvaluationReason,
)
from etrm.investigation.judgement import CommonReason
from etrm.investigation.records import Verdict
from etrm.investigation.session import Investigation

HEALTHY = EvaluationFacts(tensors=10, reached=10, answers=0.0, run=1e-7, loop=1e-6, read=1.0, read_reached=0)
REFERENCES = (EvaluationReason.LOOP_KEEPS, EvaluationReason.READ_CUTS)


@pytest.mark.parametrize(
    ("facts", "verdict", "codes"),
    [
        (HEALTHY, Verdict.INVALIDATED, (EvaluationReason.EQUAL, *REFERENCES)),
        (replace(HEALTHY, run=1.0, reached=0), Verdict.VALIDATED, (EvaluationReason.CUT, *REFERENCES)),
        (replace(HEALTHY, run=0.5), Verdict.VALIDATED, (EvaluationReason.CHANGED, *REFERENCES)),
        (
            replace(HEALTHY, answers=0.1, run=1.0),
            Verdict.INCONCLUSIVE,
            (EvaluationReason.OTHER_ANSWERS, *REFERENCES),
        ),
        (
            replace(HEALTHY, answers=float("nan"), run=float("inf")),
            Verdict.INCONCLUSIVE,
            (EvaluationReason.OTHER_ANSWERS, *REFERENCES),
        ),
        (UNREGISTERED, Verdict.INCONCLUSIVE, (EvaluationReason.UNREGISTERED,)),
        (
            replace(HEALTHY, run=1.0, loop=1.0),
            Verdict.VALIDATED,
            (EvaluationReason.CHANGED, EvaluationReason.READ_CUTS),
        ),
    ],
)
def test_the_verdict_names_the_read_and_clears_the_loop(
    facts: EvaluationFacts, verdict: Verdict, codes: tuple[str, ...]
) -> None:
    judgement = judge_inspection(facts, facts.words)
    assert (judgement.verdict, judgement.codes) == (verdict, codes)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tests of this file share, as investigations of a user do: the runs of the controls."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def solver(investigation: Investigation, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Investigation:
    """An investigation of a small solver, with runs of two steps."""
    monkeypatch.setenv("ETRM_CACHE", str(cache))
    monkeypatch.setattr(symbolic_hypothesis, "STUDIED", 8)
    for name, value in (("STEPS", 2), ("SIDE", 3), ("SEEDS", (0, 1))):
        monkeypatch.setattr(n2, name, value)
    investigation.subject = with_settings(
        load("symbolic-rules"),
        data={"max_tasks": 8, "max_side": 3},
        evaluate={"max_tasks": 8},
        model={"symbolic": {"guards": 2, "width": 4}},
        train={"batch_size": 4},
    )
    return investigation


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        pytest.param("", Verdict.INVALIDATED, marks=pytest.mark.slow),
        pytest.param(LOOP, Verdict.INVALIDATED, marks=pytest.mark.slow),  # it is a control of the next one
        (READ, Verdict.VALIDATED),
    ],
)
def test_a_read_is_named_and_a_loop_is_not(solver: Investigation, fault: str, verdict: Verdict) -> None:
    solver.subject = with_settings(solver.subject, faults=(fault,) if fault else ())
    found = n2.HYPOTHESIS.decide(solver)
    assert found.verdict is verdict, found.sentence
    assert [(control.name, control.behaved, control.kind) for control in found.controls] == [
        ("healthy", True, "negative"),
        (LOOP, True, "negative"),
        (READ, True, "positive"),
    ]
    rows = {(row.code, row.item): row for row in found.evidence}
    assert rows["n2.difference-of-gradients", "loop"].passed is True
    assert rows["n2.difference-of-gradients", "run"].passed is (verdict is Verdict.INVALIDATED)
    assert rows["n2.tensors-with-gradient", "read"].treatment == 0
    assert isinstance(rows["n2.unseen-rules-with-a-read", ""].treatment, float)
    assert len(found.runs) == 4
    assert {curve.label for curve in found.series} == {"vectorised", "scalar-read"}


def test_without_learned_predicates_there_is_nothing_to_decide(solver: Investigation) -> None:
    fixed = {"families": ("original",), "guards": 16, "width": 64}
    solver.subject = with_settings(solver.subject, model={"symbolic": fixed})
    found = n2.HYPOTHESIS.decide(solver)
    assert (found.verdict, found.codes) == (Verdict.NOT_RUN, (CommonReason.NOT_APPLICABLE,))
