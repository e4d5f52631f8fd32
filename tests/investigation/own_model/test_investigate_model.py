"""A whole investigation of an own model: the cause, what was not run and why, the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from etrm.checkpoints.folder_lock import lock_folder
from etrm.errors import ArgumentError, ConfigError, EtrmError, FolderInUseError, RunFolderError
from etrm.investigation.own_model.healthy_reference import REFERENCE
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import InspectedHypothesis, OwnModelReason
from etrm.investigation.own_model.investigate_model import (
    OWN_HYPOTHESES,
    PAIRS_NOT_CHECKED,
    choose_own,
    investigate_model,
)
from etrm.investigation.records import ControlOutcome, Verdict
from etrm.investigation.result import CauseCode, Result
from reports import read_and_render
from tests.errors import raises_code
from tests.investigation.own_model.toy_adapter import Toy, batch, factory, losses, make_toy, with_model


@pytest.fixture(scope="module")
def judged() -> dict[str, ControlOutcome]:
    """The outcomes of the healthy reference model, which are the same for every model under test."""
    return {}


@pytest.fixture(autouse=True)
def reference_judged_once(judged: dict[str, ControlOutcome], monkeypatch: pytest.MonkeyPatch) -> None:
    judge = InspectedHypothesis._judge_control

    def once(self: InspectedHypothesis, factory: Any, fault: Any = None) -> Any:
        if factory is not REFERENCE:
            return judge(self, factory, fault)
        if self.statement.id not in judged:
            judged[self.statement.id] = judge(self, factory, fault)
        return judged[self.statement.id]

    monkeypatch.setattr(InspectedHypothesis, "_judge_control", once)


class Cut(Toy):
    def pass_on(self, context: Tensor) -> Tensor:
        return context.detach()


class Mixed(Toy):
    def pass_on(self, context: Tensor) -> Tensor:
        return context + context.roll(1, 0)


class Lost(Toy):
    def pass_on(self, context: Tensor) -> Tensor:
        return 0 * context


def investigate(made: Any, out: Path, *hypotheses: str, **options: Any) -> Result:
    return investigate_model(made.make, out, hypotheses=hypotheses, seeds=1, **options)


def test_a_cut_gradient_is_the_root_cause_and_later_hypotheses_are_not_run(tmp_path: Path) -> None:
    reached: list[str] = []
    result = investigate(
        with_model(Cut), tmp_path, until_root_cause=True, on_verdict=lambda found: reached.append(found.id)
    )
    assert (result.root_cause, result.cause_code) == ("H2", CauseCode.PROVEN)
    verdicts = {id: found.verdict for id, found in result.hypotheses.items()}
    assert list(verdicts) == ["H5", "H6", "H1", "H2", "H3", "H4", "H7"]
    assert (verdicts["H5"], verdicts["H6"]) == (Verdict.INVALIDATED, Verdict.INVALIDATED)
    assert result.hypotheses["H1"].codes == (OwnModelReason.INPUT_MISSING,)
    assert all(control.behaved for found in result.hypotheses.values() for control in found.controls)
    assert (
        reached
        == [id for id, verdict in verdicts.items() if verdict is not Verdict.NOT_RUN]
        == ["H5", "H6", "H2", "H3"]
    )
    assert Result.read(tmp_path / "result.json").to_json() == result.to_json()
    read_and_render(tmp_path)
    assert (tmp_path / "h2.md").exists()


def test_a_context_that_nothing_reads_is_h3_although_nothing_trains_its_module(tmp_path: Path) -> None:
    result = investigate(with_model(Lost), tmp_path, "H2,H3")
    assert result.hypotheses["H2"].verdict is Verdict.VALIDATED
    assert result.root_cause == "H3"


def test_missing_inputs_and_choices_give_the_reason(tmp_path: Path) -> None:
    bare = factory(
        labels="", ids="", held_out=None, predict=None, evaluate=None, context_module="", sample=None
    )
    result = investigate(bare, tmp_path, "H5", "H6", "H1", "H3", "H7")
    codes = {id: found.codes for id, found in result.hypotheses.items()}
    assert {id for id, found in codes.items() if found == (OwnModelReason.INPUT_MISSING,)} == {
        "H5",
        "H6",
        "H1",
        "H3",
        "H7",
    }
    assert result.hypotheses["H2"].codes == ("any.not-selected",)
    assert result.cause_code is CauseCode.NOT_TESTED


def test_code_that_breaks_later_ends_one_hypothesis_in_an_error(tmp_path: Path) -> None:
    calls: list[int] = []

    def breaks(model: Any, rows: dict[str, Any]) -> Tensor:
        calls.append(1)
        if len(calls) > 30:
            raise ZeroDivisionError
        return losses(model, rows).mean()

    refusals: list[EtrmError] = []
    result = investigate(factory(step=breaks), tmp_path, "H5,H6", on_refusal=refusals.append)
    verdicts = {id: (found.verdict, found.codes) for id, found in result.hypotheses.items()}
    assert verdicts["H5"] == (Verdict.ERROR, (OwnModelReason.ADAPTER_REFUSED,))
    assert verdicts["H6"][0] is Verdict.INVALIDATED
    assert result.cause_code is CauseCode.ERROR
    assert [error.code for error in refusals] == ["adapter.step-raised"]


def test_a_batch_that_cannot_be_read_a_last_time_loses_no_result(tmp_path: Path) -> None:
    """The data is exhausted after the hypotheses are decided."""
    left: list[int] = [10**6]

    def read(index: int) -> dict[str, Any]:
        left[0] -= 1
        if left[0] < 0:
            raise EOFError
        return batch(index)

    result = investigate(factory(batch=read), tmp_path, "H1", on_verdict=lambda found: left.__setitem__(0, 0))
    assert (tmp_path / "result.json").exists()
    assert result.reproduce.data_hash


@pytest.mark.slow
def test_a_cause_that_is_not_selected_leaves_open_what_it_may_explain(tmp_path: Path) -> None:
    """Contexts that mix rows fail H5, which H3 explains where it is decided."""
    alone, both = (investigate(with_model(Mixed), tmp_path / chosen, chosen) for chosen in ("H5", "H5,H3"))
    assert (alone.root_cause, alone.cause_code) == (None, CauseCode.UNTESTED)
    assert "--hypotheses H5,H3." in alone.next_step
    assert both.root_cause == "H3"


def test_the_next_step_says_that_labels_were_not_compared_with_their_samples(tmp_path: Path) -> None:
    """Only ids with samples name the label of a row."""
    steps = {
        name: investigate(made, tmp_path / name, "H1").next_step
        for name, made in (("checked", factory()), ("ids", factory(sample=None)), ("none", factory(ids="")))
    }
    assert {name: step.startswith(PAIRS_NOT_CHECKED) for name, step in steps.items()} == {
        "checked": False,
        "ids": True,
        "none": True,
    }


def test_a_folder_belongs_to_one_model(tmp_path: Path) -> None:
    investigate(factory(), tmp_path, "H1")
    with raises_code(RunFolderError, "investigate.other-own-model"):
        investigate_model(make_toy, tmp_path, hypotheses=["H1"])


def test_a_folder_is_used_by_one_process(tmp_path: Path) -> None:
    with lock_folder(tmp_path), raises_code(FolderInUseError, "run.in-use"):
        investigate(factory(), tmp_path, "H1")
    assert not (tmp_path / "subject.json").exists()


@pytest.mark.parametrize("seeds", [0, -1])
def test_it_needs_a_seed(seeds: int, tmp_path: Path) -> None:
    with raises_code(ArgumentError, "investigate.too-few-seeds", seeds):
        investigate_model(make_toy, tmp_path, seeds=seeds)


def test_an_unknown_hypothesis_is_refused() -> None:
    assert choose_own([]) == choose_own(["all"]) == tuple(OWN_HYPOTHESES)
    assert choose_own(["H2,H1", "H2"]) == ("H2", "H1")
    with raises_code(ConfigError, "investigate.unknown-own-hypothesis", "N1"):
        choose_own(["N1"])


@pytest.mark.parametrize("id", list(OWN_HYPOTHESES))
def test_each_statement_has_the_id_of_its_hypothesis(id: str) -> None:
    assert OWN_HYPOTHESES[id].statement.id == id
    assert OWN_HYPOTHESES[id].next_step
