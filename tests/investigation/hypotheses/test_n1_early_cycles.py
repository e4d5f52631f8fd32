"""N1 by planted calls, and from end to end: the fault is named, and the recursion of TRM is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from etrm.config import load, with_settings
from etrm.investigation.hypotheses import n1_early_cycles as n1
from etrm.investigation.hypotheses import symbolic_hypothesis
from etrm.investigation.hypotheses.inspection import judge_inspection
from etrm.investigation.hypotheses.n1_early_cycles import FAULT, CycleFacts, CycleReason
from etrm.investigation.judgement import CommonReason
from etrm.investigation.measurements.selector_calls import PartCalls, SelectorCalls
from etrm.investigation.records import Verdict
from etrm.investigation.session import Investigation


def facts(encoder: float, enabled: float, reached: float) -> CycleFacts:
    return CycleFacts(
        SelectorCalls(
            PartCalls(float(bool(encoder)), calls=1, enabled=1, reached=encoder),
            PartCalls(float(bool(reached)), calls=6, enabled=enabled, reached=reached),
        )
    )


@pytest.mark.parametrize(
    ("found", "verdict", "codes"),
    [
        (facts(1, 6, 6), Verdict.INVALIDATED, (CycleReason.ALL_CYCLES,)),
        (facts(0, 6, 0), Verdict.INVALIDATED, (CycleReason.ALL_CYCLES,)),  # cut by something else
        (facts(0, 2, 2), Verdict.VALIDATED, (CycleReason.ENCODER_CUT, CycleReason.REFINERS_TRAIN)),
        (facts(1, 2, 2), Verdict.INVALIDATED, (CycleReason.ENCODER_TRAINS, CycleReason.REFINERS_TRAIN)),
        (facts(0, 2, 0), Verdict.INCONCLUSIVE, (CycleReason.CUT_ELSEWHERE,)),
    ],
)
def test_the_verdict_names_encoder_and_refiners_separately(
    found: CycleFacts, verdict: Verdict, codes: tuple[str, ...]
) -> None:
    judgement = judge_inspection(found, found.words)
    assert (judgement.verdict, judgement.codes) == (verdict, codes)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tests of this file share, as investigations of a user do: the runs of the controls."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def solver(investigation: Investigation, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Investigation:
    """An investigation of a small solver with an encoder, with runs of two steps."""
    monkeypatch.setenv("ETRM_CACHE", str(cache))
    monkeypatch.setattr(symbolic_hypothesis, "STUDIED", 8)
    for name, value in (("LENGTH", 2), ("SEEDS", (0, 1))):
        monkeypatch.setattr(n1, name, value)
    investigation.subject = with_settings(
        load("symbolic-rules"),
        data={"max_tasks": 8, "max_side": 3},
        evaluate={"max_tasks": 8},
        model={"symbolic": {"selector": "demos", "hidden_size": 8, "guards": 2, "width": 4}},
        train={"batch_size": 4},
    )
    return investigation


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"faults": (FAULT,)}, Verdict.VALIDATED),
        (
            {"model": {"symbolic": {"cycle_grad": "last", "inject": "every_cycle"}}},
            Verdict.INVALIDATED,
        ),
    ],
)
def test_the_fault_is_named_and_the_recursion_of_trm_is_not(
    solver: Investigation, change: Any, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = with_settings(solver.subject, train={"steps": 2, "warmup_steps": 0})
    monkeypatch.setattr(n1, "_study", lambda inject, gradient: short)
    solver.subject = with_settings(solver.subject, **change)
    found = n1.HYPOTHESIS.decide(solver)
    assert found.verdict is verdict, found.sentence
    assert [(control.kind, control.behaved) for control in found.controls] == [
        ("negative", True),
        ("negative", True),
        ("positive", True),
    ]
    rows = {(row.code, row.item): row for row in found.evidence}
    assert rows["n1.coverage", "encoder"].passed is (verdict is Verdict.INVALIDATED)
    assert rows["n1.coverage", "refiners"].passed is True
    assert rows["n1.unseen-rules", "start"].treatment == rows["n1.unseen-rules", "start"].control
    assert len(found.runs) == 8
    assert len({curve.label for curve in found.series}) == 4


def test_the_arms_differ_in_gradient_and_injection_alone() -> None:
    settings = [job.config.model.symbolic for job in n1.HYPOTHESIS.plan_jobs()]
    assert {(one.cycle_grad, one.inject) for one in settings} == {
        ("all", "start"),
        ("last", "start"),
        ("all", "every_cycle"),
        ("last", "every_cycle"),
    }
    other = {one.model_copy(update={"cycle_grad": "all", "inject": "start"}) for one in settings}
    assert len(other) == 1


def test_a_selector_without_encoder_has_no_cycles(solver: Investigation) -> None:
    solver.subject = load("symbolic-rules")
    found = n1.HYPOTHESIS.decide(solver)
    assert (found.verdict, found.codes) == (Verdict.NOT_RUN, (CommonReason.NOT_APPLICABLE,))
