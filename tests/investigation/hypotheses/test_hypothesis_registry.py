"""Hypotheses are found by their modules, and one from outside takes part in everything that the others do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etrm.config import load
from etrm.errors import ConfigError
from etrm.extensions import outside_digests
from etrm.investigation.hypotheses import hypothesis_registry as registry
from etrm.investigation.hypotheses.hypothesis import Hypothesis, Statement
from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses, register
from etrm.investigation.judgement import CommonReason, Judgement
from etrm.investigation.records import Verdict
from etrm.investigation.result import CauseCode, HypothesisResult, Result
from etrm.investigation.run import choose, investigate
from etrm.investigation.runs.budget import SCREENING
from etrm.investigation.session import Investigation
from etrm.training.faults import FAULTS
from reports import read_and_render
from tests.errors import raises_code
from tests.investigation.planted import inline

OF_EVERY_MODEL = ("H5", "H6", "H1", "H2", "H3", "H4", "H7")
OF_THE_SOLVER = ("N1", "N2", "N3", "N4", "N5")
STATEMENT = Statement(
    id="X1",
    title="Too few tasks",
    statement="There are too few training tasks.",
    refuted_by="There are at least 1000.",
    mechanism="Few tasks can be memorised.",
    kind="mechanistic",
    would_change="More tasks.",
)


class TooFewTasks(Hypothesis):
    """As a user writes it."""

    statement = STATEMENT
    next_step = "Add tasks to data.max_tasks."

    def decide(self, investigation: Investigation) -> HypothesisResult:
        tasks = investigation.subject.data.max_tasks or 1000
        verdict = Verdict.VALIDATED if tasks < 1000 else Verdict.INVALIDATED
        return self.statement.decided(Judgement(verdict, ("x1.tasks",), f"There are {tasks} tasks."))


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", {})


def test_every_module_of_the_package_is_found_and_the_order_is_that_of_precedence() -> None:
    assert tuple(all_hypotheses()) == (*OF_EVERY_MODEL, *OF_THE_SOLVER)
    register(TooFewTasks)
    assert tuple(all_hypotheses())[-1] == "X1"
    early = TooFewTasks()
    early.precedence = 15
    register(early)
    assert tuple(all_hypotheses())[:3] == ("H5", "X1", "H6")


def test_every_control_is_a_fault_of_the_hypothesis_that_it_is_a_control_of() -> None:
    for id in OF_EVERY_MODEL:
        hypothesis = all_hypotheses()[id]
        assert hypothesis.controls, id
        assert {FAULTS[name].root_cause for name in hypothesis.controls} == {id}
        assert hypothesis.next_step.endswith(".")


@pytest.mark.parametrize("id", OF_THE_SOLVER)
def test_a_hypothesis_about_the_solver_names_no_fault_of_its_own(id: str) -> None:
    hypothesis = all_hypotheses()[id]
    assert {FAULTS[name].root_cause for name in hypothesis.controls} <= set(OF_EVERY_MODEL)
    assert hypothesis.next_step.endswith(".")
    assert hypothesis.applies_to(load("symbolic"))
    assert not hypothesis.applies_to(load("smoke"))


def test_all_stands_for_those_that_apply_and_another_one_is_chosen_by_its_name() -> None:
    assert choose(load("smoke"), "all") == OF_EVERY_MODEL
    assert choose(load("symbolic"), "all") == (*OF_EVERY_MODEL, *OF_THE_SOLVER)
    assert choose(load("smoke"), "N5") == ("N5",)
    assert choose(load("smoke"), "N5, all") == (*OF_EVERY_MODEL, "N5")


@pytest.mark.usefixtures("equal")
def test_one_that_does_not_apply_is_left_out_or_gives_the_reason(tmp_path: Path) -> None:
    result = _investigate(tmp_path / "selected", "N5")
    assert result.hypotheses["N5"].verdict is Verdict.NOT_RUN
    assert result.hypotheses["N5"].codes == (CommonReason.NOT_APPLICABLE,)
    assert "etrm" in result.hypotheses["N5"].sentence
    assert _investigate(tmp_path / "default").order == OF_EVERY_MODEL


def _investigate(out: Path, *names: str) -> Result:
    return investigate(
        load("smoke"),
        out,
        name="preset smoke",
        tier=replace(SCREENING, seeds=1, short_seeds=1),
        launcher=inline(),
        command="etrm investigate",
        progress=lambda phase, done, total: None,
        hypotheses=names,
        experiments=(),
    )


@pytest.mark.usefixtures("equal")
def test_one_from_outside_is_chosen_decided_and_reported_like_the_others(tmp_path: Path) -> None:
    with raises_code(ConfigError, "investigate.unknown-hypothesis", repr("X1")):
        choose(load("smoke"), "X1")
    register(TooFewTasks())
    assert choose(load("smoke"), "X1") == ("X1",)
    assert "X1" in choose(load("smoke"), "all")
    result = _investigate(tmp_path, "X1")
    assert (result.root_cause, result.cause_code) == ("X1", CauseCode.PROVEN)
    assert result.next_step == TooFewTasks.next_step
    assert result.hypotheses["X1"].outside_code == tuple(outside_digests([TooFewTasks]))
    assert len(result.hypotheses["X1"].outside_code) >= 1
    assert Result.read(tmp_path / "result.json") == result
    registry._REGISTERED.clear()  # a report needs the result alone
    read_and_render(tmp_path)
    index, page = (tmp_path / name for name in ("index.md", "x1.md"))
    assert "Too few tasks" in index.read_text("utf-8")
    assert "There are 12 tasks." in page.read_text("utf-8")


def test_code_of_this_package_has_no_hash_of_its_own() -> None:
    assert outside_digests([type(all_hypotheses()["H2"])]) == []


class _Undecided(Hypothesis):
    statement = STATEMENT
    next_step = ""


def _with(**members: Any) -> object:
    return type("Wrong", (TooFewTasks,), members)()


@pytest.mark.parametrize(
    ("found", "member", "got"),
    [
        (object(), "statement", "nothing"),
        (_with(statement="words"), "statement", "'words'"),
        (_with(statement=replace(STATEMENT, id="x 1")), "statement.id", "'x 1'"),
        (_with(next_step=None), "next_step", "nothing"),
        (_with(precedence="first"), "precedence", "'first'"),
        (_with(controls=["cached-context"]), "controls", "list"),
        (_with(decide="VALIDATED"), "decide", "'VALIDATED'"),
        (_Undecided(), "decide", "nothing"),
    ],
)
def test_a_wrong_object_is_refused_with_what_was_expected_and_got(
    found: object, member: str, got: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        register(found)
    assert (caught.value.code, caught.value.got) == ("hypothesis.invalid", got)
    assert f" {member} " in caught.value.what
    assert caught.value.allowed
    assert "X1" not in all_hypotheses()


def test_an_id_is_taken_once_but_a_file_may_be_loaded_twice() -> None:
    register(TooFewTasks())
    again = register(TooFewTasks())
    assert all_hypotheses()["X1"] is again
    with raises_code(ConfigError, "hypothesis.id-taken", repr("X1")):
        register(_with(decide=lambda self, investigation: None))
    with raises_code(ConfigError, "hypothesis.id-taken", repr("H2")):
        register(_with(statement=replace(STATEMENT, id="H2")))


@pytest.mark.usefixtures("equal")
@pytest.mark.parametrize("returned", [None, "VALIDATED"])
def test_a_result_of_the_wrong_kind_is_refused(tmp_path: Path, returned: object) -> None:
    register(_with(decide=lambda self, investigation: returned))
    with raises_code(ConfigError, "hypothesis.wrong-result", type(returned).__name__):
        _investigate(tmp_path, "X1")
