"""N5 by planted counts, its controls for real, and the original library on the tasks of ARC-AGI-1."""

from __future__ import annotations

from typing import Any

import pytest

from etrm.config import load, with_settings
from etrm.investigation.hypotheses import n5_library as n5
from etrm.investigation.hypotheses.inspection import judge_controls
from etrm.investigation.hypotheses.n5_library import GOALS, HELD_OUT, RULES_GOALS, TRAINING, LibraryReason
from etrm.investigation.judgement import CommonReason
from etrm.investigation.measurements.expressible_tasks import ExpressibleTasks
from etrm.investigation.records import ControlOutcome, Verdict
from etrm.investigation.session import Investigation


def split(name: str, expressed: int, of: int = 100, **known: Any) -> ExpressibleTasks:
    planted = {"tasks": of, "searched": of, "searched_right": 0, "fixed": expressed, "learned": None} | known
    return ExpressibleTasks(name, expressed=expressed, **planted)


def judged(*found: ExpressibleTasks, rules: bool = False) -> tuple[Verdict, str]:
    judgement = n5.LibraryFacts(found, RULES_GOALS if rules else GOALS).judge()
    return judgement.verdict, judgement.codes[0]


def test_a_goal_out_of_reach_on_either_split_validates() -> None:
    validated = (Verdict.VALIDATED, LibraryReason.TOO_SMALL)
    assert judged(split(TRAINING, 19), split(HELD_OUT, 50)) == validated
    assert judged(split(TRAINING, 50), split(HELD_OUT, 3)) == validated
    assert judged(split(TRAINING, 20), split(HELD_OUT, 4)) == (
        Verdict.INVALIDATED,
        LibraryReason.LARGE_ENOUGH,
    )


def test_a_part_of_the_tasks_decides_only_where_its_interval_does() -> None:
    few = {"tasks": 8000}
    assert judged(split(HELD_OUT, 12, 20, **few), rules=True) == (
        Verdict.INCONCLUSIVE,
        LibraryReason.UNDECIDED,
    )
    assert judged(split(HELD_OUT, 3, 20, **few), rules=True)[0] is Verdict.VALIDATED
    assert judged(split(HELD_OUT, 20, 20, **few), rules=True)[0] is Verdict.INVALIDATED


def test_learned_guards_are_never_too_few() -> None:
    assert judged(split(HELD_OUT, 0, learned=0), rules=True) == (
        Verdict.INCONCLUSIVE,
        LibraryReason.LEARNED_OPEN,
    )
    assert judged(split(HELD_OUT, 65, learned=65), rules=True)[0] is Verdict.INVALIDATED


def test_the_controls_behave_for_real(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETRM_CACHE", str(tmp_path))
    small = [
        control.__class__(
            control.name,
            control.what,
            with_settings(control.config, data={"max_tasks": 8}, evaluate={"max_tasks": 8}),
            control.positive,
        )
        for control in n5.make_controls()
    ]
    outcomes = judge_controls("n5", small, lambda config: n5.inspect_library(config).judge())
    assert [(outcome.got, outcome.behaved) for outcome in outcomes] == [
        (Verdict.VALIDATED, True),
        (Verdict.INVALIDATED, True),
    ]


def test_a_control_that_does_not_behave_is_an_error() -> None:
    broken = ControlOutcome(
        name="library-original",
        kind="positive",
        what="planted",
        expected=Verdict.VALIDATED,
        got=Verdict.INVALIDATED,
        behaved=False,
        codes=("test.planted",),
        detail="planted",
    )
    facts = n5.LibraryFacts((split(HELD_OUT, 90),), RULES_GOALS)
    assert n5.judge(facts, "", [broken]).codes == (CommonReason.CONTROLS_MISBEHAVED,)
    assert n5.judge(None, "no tasks", []).codes == (CommonReason.SUBJECT_NOT_BUILT,)


def test_the_original_templates_cannot_express_arc(
    investigation: Investigation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(n5, "TASKS", 12)
    monkeypatch.setattr(n5, "make_controls", lambda: [])
    investigation.subject = with_settings(
        load("symbolic"), model={"symbolic": {"families": ("original",), "guards": 16}}
    )
    found = n5.HYPOTHESIS.decide(investigation)
    rows = {(row.code, row.item): row for row in found.evidence}
    expressed = rows["n5.expressed", TRAINING]
    assert isinstance(expressed.treatment, float)
    assert expressed.treatment < 0.2  # 8 of all 178 tasks
    assert expressed.control == GOALS[TRAINING]
    assert found.verdict in (Verdict.VALIDATED, Verdict.INCONCLUSIVE)  # twelve tasks bound a share loosely
    assert len(rows) == 8
