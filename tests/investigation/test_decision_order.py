"""What proves a cause soonest is decided first, and nothing is announced that a later comparison changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from etrm.config import load
from etrm.errors import CheckpointError, Interrupted
from etrm.investigation import decision_order
from etrm.investigation.announced_verdicts import AnnouncedVerdicts
from etrm.investigation.decision_order import DecisionOrder, decide_hypothesis
from etrm.investigation.hypotheses.h3_context_interface import ContextInterface
from etrm.investigation.hypotheses.hypothesis import Hypothesis
from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses
from etrm.investigation.judgement import CommonReason
from etrm.investigation.records import Verdict
from etrm.investigation.result import HypothesisResult, ReferenceResult
from etrm.investigation.root_cause import find_root_cause
from etrm.investigation.run import choose
from etrm.investigation.runs.jobs import Job, OnProgress
from etrm.investigation.runs.launchers import Launcher
from etrm.investigation.runs.pretrained_decoder import UnkeptDecoderError
from etrm.investigation.session import Investigation
from etrm.reference.departure import PipelineStage
from etrm.training.monitoring.step_check import ComparedStep
from tests.investigation.planted import inline

EQUAL = ReferenceResult(codes=("reference.equal",), sentence="start", steps=(1,))
COURSE = EQUAL.replace(sentence="course")
ALL = choose(load("smoke"), "all")


def departing(hypothesis: str | None, stage: PipelineStage = PipelineStage.UPDATE) -> ReferenceResult:
    return ReferenceResult(
        codes=("reference.departs-in-the-run",), sentence="planted", stage=stage, hypothesis=hypothesis
    )


class Planted:
    """An order whose hypotheses have planted verdicts, with what it did and announced."""

    def __init__(
        self,
        root: Path,
        monkeypatch: pytest.MonkeyPatch,
        verdicts: dict[str, Verdict],
        *,
        chosen: tuple[str, ...] = ALL,
        until: bool = False,
        course: ReferenceResult = COURSE,
        loading: ReferenceResult | None = None,
    ) -> None:
        self._patch = monkeypatch
        self.did: list[str] = []
        self.announced: list[tuple[str, Verdict]] = []
        self.departures: list[ReferenceResult] = []
        for id in ALL:
            kind = type(all_hypotheses()[id])
            monkeypatch.setattr(kind, "decide", self._deciding(id, verdicts.get(id, Verdict.INVALIDATED)))
        monkeypatch.setattr(ContextInterface, "is_short", lambda self, investigation: "H3" in verdicts)
        monkeypatch.setattr(Investigation, "decoder", property(lambda self: self_did(self)))
        self_did = lambda investigation: self.did.append("decoder")  # noqa: E731

        def compare_course(
            investigation: Investigation,
            start: ReferenceResult,
            *,
            until_departure: bool,
            known: Sequence[ComparedStep],
        ) -> ReferenceResult:
            self.did.append(f"course {until_departure}")
            return course

        monkeypatch.setattr(decision_order, "compare_course", compare_course)
        monkeypatch.setattr(decision_order, "compare_loading", lambda investigation, start: loading or start)
        subject = load("smoke")
        self.order = DecisionOrder(
            Investigation(root, subject, (0,), inline(), lambda phase, done, total: None),
            chosen,
            until,
            (),
            AnnouncedVerdicts(lambda found: self.announced.append((found.id, found.verdict))),
            self.departures.append,
        )

    def _deciding(self, id: str, verdict: Verdict) -> Callable[..., HypothesisResult]:
        def decide(hypothesis: Hypothesis, investigation: Investigation) -> HypothesisResult:
            self.did.append(id)
            return hypothesis.not_run("test.planted", "planted").replace(verdict=verdict)

        return decide

    def compare(self, start: ReferenceResult = EQUAL) -> ReferenceResult:
        self._patch.setattr(decision_order, "compare_start", lambda investigation, given: start)
        return self.order.compare(self.order.investigation.subject)

    def run(self, start: ReferenceResult = EQUAL) -> dict[str, HypothesisResult]:
        return self.order.decide(self.compare(start))


@pytest.mark.parametrize(
    ("chosen", "until", "whole"), [("H5", False, False), ("H5", True, True), ("all", False, True)]
)
def test_the_whole_run_is_compared_unless_some_hypotheses_are_decided(
    chosen: str, until: bool, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(tmp_path, monkeypatch, {}, chosen=choose(load("smoke"), chosen), until=until)
    assert planted.compare(EQUAL) == (COURSE if whole else EQUAL)
    assert (f"course {until}" in planted.did) == whole


def test_what_is_short_is_decided_once_before_the_long_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(tmp_path, monkeypatch, {"H1": Verdict.VALIDATED})
    planted.compare(EQUAL)
    assert planted.did == ["H5", "H6", "H1", "H2", "course False"]
    assert planted.announced == [("H1", Verdict.VALIDATED)]  # the course may still validate the others
    decided = planted.order.decide(COURSE)
    assert planted.did == ["H5", "H6", "H1", "H2", "course False", "H3", "H4", "H7"]
    assert [id for id, _ in planted.announced] == ["H1", "H5", "H6", "H2", "H3", "H4", "H7"]
    assert find_root_cause(decided).id == "H1"


def test_a_search_ends_at_a_proven_cause_without_the_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(tmp_path, monkeypatch, {"H1": Verdict.VALIDATED}, until=True)
    decided = planted.run()
    assert planted.did == ["H5", "H6", "H1"]
    assert decided["H2"].codes == (CommonReason.STOPPED_AT_ROOT_CAUSE,)


def test_a_search_does_not_pass_over_a_hypothesis_that_needs_a_long_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(tmp_path, monkeypatch, {"H7": Verdict.VALIDATED}, until=True)
    assert find_root_cause(planted.run()).id == "H7"
    assert planted.did == ["H5", "H6", "H1", "H2", "course True", "H3", "H4", "H7"]


@pytest.mark.parametrize("until", [False, True])
def test_a_departure_is_a_verdict_at_once_and_stays_one(
    until: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(tmp_path, monkeypatch, {}, until=until)
    decided = planted.run(departing("H4"))
    assert planted.announced[0] == ("H4", Verdict.VALIDATED)
    assert [id for id, _ in planted.announced].count("H4") == 1
    assert decided["H4"].verdict is Verdict.VALIDATED
    assert find_root_cause(decided).id == "H4"
    assert planted.departures == []
    # A search looks at what is short, and trains nothing for H3, of which the reference shows more.
    expected = ["H5", "H6", "H1", "H2"]
    assert planted.did == (expected if until else [*expected, "H3", "H4", "H7"])


def test_a_cause_of_the_departing_hypothesis_is_named_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(tmp_path, monkeypatch, {"H2": Verdict.VALIDATED}, until=True)
    decided = planted.run(departing("H3", PipelineStage.CONTEXT))
    assert planted.announced[0] == ("H3", Verdict.VALIDATED)
    assert find_root_cause(decided).id == "H2"  # an earlier one explains it


def test_a_decoder_that_is_not_loaded_is_known_before_the_hypotheses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(tmp_path, monkeypatch, {}, loading=departing("H1", PipelineStage.LOADING))
    planted.compare()
    assert (planted.announced, planted.did) == ([("H1", Verdict.VALIDATED)], [])


def test_a_late_departure_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = departing("H2")
    planted = Planted(tmp_path, monkeypatch, {}, course=late)
    assert planted.run()["H2"].verdict is Verdict.VALIDATED
    assert planted.announced[0] == ("H2", Verdict.VALIDATED)
    assert [id for id, _ in planted.announced].count("H2") == 1


@pytest.mark.parametrize(("owner", "chosen"), [(None, ALL), ("H4", ("H5",))])
def test_a_departure_that_decides_no_chosen_hypothesis_is_told_as_such(
    owner: str | None, chosen: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(tmp_path, monkeypatch, {}, chosen=chosen)
    found = departing(owner)
    planted.compare(found)
    assert (planted.departures, planted.announced) == ([found], [])


@pytest.mark.parametrize("start", [EQUAL, departing("H4")])
def test_the_whole_run_trains_from_the_beginning_where_jobs_may_run_at_the_same_time(
    start: ReferenceResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(tmp_path, monkeypatch, {})
    one = planted.order.investigation
    one.launcher = replace(one.launcher, jobs=2)

    class Background:
        def __init__(self, root: Path, job: Job, launcher: Launcher) -> None:
            planted.did.append(f"begin {job.arm.study}")

        def __enter__(self) -> Background:
            return self

        def wait(self, progress: OnProgress) -> None:
            planted.did.append(f"wait, {one.launcher.jobs} job")

        def __exit__(self, *error: object) -> None:
            planted.did.append("end")

    monkeypatch.setattr(decision_order, "BackgroundJob", Background)
    planted.compare(start)
    short = ["H5", "H6", "H1", "H2", "decoder", "wait, 1 job", "end", "course False"]
    assert planted.did == ["begin reference", *(["end"] if start.stage else short)]
    assert one.launcher.jobs == 2


def test_a_hypothesis_that_raises_while_it_is_asked_is_decided_which_reports_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(tmp_path, monkeypatch, {})

    def fail(hypothesis: Hypothesis, investigation: Investigation) -> bool:
        raise IndexError("planted")

    monkeypatch.setattr(ContextInterface, "is_short", fail)
    planted.compare(EQUAL)
    assert "H3" in planted.did


def test_a_crash_ends_one_hypothesis_and_keeps_its_traceback(tmp_path: Path) -> None:
    class Crashing(Hypothesis):
        statement = all_hypotheses()["H2"].statement

        def decide(self, investigation: Investigation) -> HypothesisResult:
            raise IndexError("planted\nsecond line")

    investigation = cast(Investigation, SimpleNamespace(root=tmp_path))
    found = decide_hypothesis(Crashing(), investigation)
    assert (found.verdict, found.codes) == (Verdict.ERROR, (CommonReason.CRASHED,))
    assert "planted" in found.sentence
    assert "second line" in (tmp_path / "H2.traceback.txt").read_text()


@pytest.mark.parametrize(("kind", "ends"), [(UnkeptDecoderError, False), (CheckpointError, True)])
def test_a_decoder_that_the_code_does_not_keep_ends_one_hypothesis_and_a_damaged_file_all(
    kind: type[CheckpointError], ends: bool, tmp_path: Path
) -> None:
    class Refusing(ContextInterface):
        def decide(self, investigation: Investigation) -> HypothesisResult:
            raise kind("decoder.planted", "planted")

    investigation = cast(Investigation, SimpleNamespace(root=tmp_path))
    if ends:
        with pytest.raises(CheckpointError):
            decide_hypothesis(Refusing(), investigation)
    else:
        assert decide_hypothesis(Refusing(), investigation).verdict is Verdict.ERROR


def test_ctrl_c_within_a_hypothesis_ends_the_investigation_and_is_no_verdict(tmp_path: Path) -> None:
    class Interrupting(ContextInterface):
        def decide(self, investigation: Investigation) -> HypothesisResult:
            raise Interrupted

    with pytest.raises(Interrupted):
        decide_hypothesis(Interrupting(), cast(Investigation, SimpleNamespace(root=tmp_path)))
    assert list(tmp_path.iterdir()) == []
