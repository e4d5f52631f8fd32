"""Root causes from end to end on the smoke preset, and the order that names them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etrm.checkpoints.folder_lock import lock_folder
from etrm.config import Config, load, with_settings
from etrm.device import pick_device
from etrm.errors import ConfigError, DataError, FolderInUseError, RunFolderError
from etrm.hardware import describe
from etrm.investigation import decision_order
from etrm.investigation.announced_verdicts import AnnouncedVerdicts
from etrm.investigation.decision_order import DecisionOrder
from etrm.investigation.experiments import frozen_decoder
from etrm.investigation.hypotheses.hypothesis import Hypothesis
from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses
from etrm.investigation.judgement import CommonReason
from etrm.investigation.records import Arm, Run, Verdict
from etrm.investigation.result import CauseCode, HypothesisResult, ReferenceResult, Result
from etrm.investigation.root_cause import (
    correct_over_all,
    find_root_cause,
    find_unselected_causes,
    mark_downstream,
    select_causes_too,
)
from etrm.investigation.run import choose, describe_no_cause, investigate
from etrm.investigation.runs.budget import SCREENING
from etrm.investigation.session import Investigation
from etrm.reference.departure import PipelineStage
from tests.errors import assert_holds, raises_code
from tests.investigation.planted import inline

ORDER = ("H5", "H6", "H1", "H2", "H3", "H4", "H7")


def hypotheses(**verdicts: Verdict) -> dict[str, HypothesisResult]:
    plain = {id: planted_hypothesis(id) for id in ORDER}
    return {id: h.replace(verdict=verdicts.get(id, h.verdict)) for id, h in plain.items()}


def planted_hypothesis(id: str) -> HypothesisResult:
    return all_hypotheses()[id].not_run("test.planted", "planted")


def start(config: Config, out: Path) -> None:
    investigate(config, out, name="smoke", launcher=inline(), command="", progress=lambda p, d, t: None)


def test_a_stage_without_tasks_is_refused_before_any_work(tmp_path: Path) -> None:
    """It ended in an ERROR of every hypothesis."""
    smoke = with_settings(load("smoke"), data={"curriculum": [[3, 6], [4, 6], [5, 8]]})
    with raises_code(DataError, "data.stage-without-tasks"):
        start(smoke, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_held_out_tasks_with_unknown_outputs_are_refused_before_any_work(tmp_path: Path) -> None:
    """All runs were made first, and the last table ended the investigation in an error."""
    file = tmp_path / "test_challenges.json"
    pair = {"input": [[1]], "output": [[2]]}
    file.write_text(json.dumps({"one": {"train": [pair, pair], "test": [{"input": [[3]]}]}}))
    with raises_code(DataError, "evaluate.unknown-outputs", "evaluate.source", got="one"):
        start(with_settings(load("smoke"), evaluate={"source": str(file)}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_first_validated_hypothesis_in_the_order_is_the_cause() -> None:
    assert find_root_cause(hypotheses(H1=Verdict.VALIDATED, H2=Verdict.VALIDATED)).id == "H1"
    assert find_root_cause(hypotheses(H1=Verdict.INVALIDATED, H2=Verdict.VALIDATED)).id == "H2"
    refuted = find_root_cause(hypotheses(H1=Verdict.INVALIDATED, H2=Verdict.INVALIDATED))
    assert (refuted.id, refuted.code) == (None, CauseCode.NONE)
    assert find_root_cause(hypotheses()).code is CauseCode.NOT_TESTED


def test_a_mechanism_of_the_solver_is_the_cause_only_where_no_other_hypothesis_is() -> None:
    both = hypotheses(H2=Verdict.VALIDATED) | {
        "N2": planted_hypothesis("N2").replace(verdict=Verdict.VALIDATED)
    }
    assert find_root_cause(both).id == "H2"
    alone = hypotheses(**dict.fromkeys(ORDER, Verdict.INVALIDATED)) | {
        "N5": planted_hypothesis("N5").replace(verdict=Verdict.VALIDATED)
    }
    assert find_root_cause(alone)[:3] == ("N5", "proven", CauseCode.PROVEN)


def test_an_error_upstream_leaves_the_cause_open_and_says_where() -> None:
    cause = find_root_cause(hypotheses(H1=Verdict.ERROR, H2=Verdict.VALIDATED))
    assert cause.id is cause.confidence is None
    assert cause.code is CauseCode.ERROR
    assert "H1" in cause.sentence


def changed(found: dict[str, HypothesisResult], id: str, **update: object) -> dict[str, HypothesisResult]:
    return found | {id: found[id].replace(**update)}


@pytest.mark.parametrize("verdict", [Verdict.VALIDATED, Verdict.ERROR])
def test_what_another_hypothesis_explains_is_passed_over_where_that_one_holds(verdict: Verdict) -> None:
    found = changed(hypotheses(H2=verdict, H3=Verdict.VALIDATED), "H2", explained_by="H3")
    assert find_root_cause(found)[:3] == ("H3", "proven", CauseCode.PROVEN)
    refuted = changed(hypotheses(H2=verdict, H3=Verdict.INVALIDATED), "H2", explained_by="H3")
    assert find_root_cause(refuted).id == ("H2" if verdict is Verdict.VALIDATED else None)
    pending = {id: h for id, h in found.items() if id != "H3"}
    assert (find_root_cause(pending).id, find_root_cause(pending).code) == (None, CauseCode.NONE)


@pytest.mark.parametrize("verdict", [Verdict.VALIDATED, Verdict.ERROR])
def test_what_a_hypothesis_that_was_not_selected_may_explain_is_left_open(verdict: Verdict) -> None:
    """H2 alone named H2 as the proven cause where H3 was."""
    found = changed(hypotheses(H1=Verdict.INVALIDATED, H2=verdict), "H2", explained_by="H3")
    skipped = changed(found, "H3", codes=(CommonReason.NOT_SELECTED,))
    cause = find_root_cause(skipped)
    assert (cause.id, cause.confidence, cause.code) == (None, None, CauseCode.UNTESTED)
    assert find_unselected_causes(skipped) == {"H2": "H3"}
    assert "--hypotheses H1,H2,H3." in select_causes_too(skipped)
    inapplicable = changed(found, "H3", codes=(CommonReason.NOT_APPLICABLE,))
    assert find_root_cause(inapplicable).code in (CauseCode.PROVEN, CauseCode.ERROR)
    assert select_causes_too(inapplicable) == ""


def test_a_candidate_that_another_hypothesis_may_explain_is_no_leading_candidate() -> None:
    found = hypotheses(H4=Verdict.INCONCLUSIVE)
    found = changed(found, "H4", candidate=True, explained_by="H5")
    skipped = changed(found, "H5", codes=(CommonReason.NOT_SELECTED,))
    assert find_root_cause(skipped).code is CauseCode.UNTESTED
    refuted = changed(found, "H5", verdict=Verdict.INVALIDATED)
    assert find_root_cause(refuted)[:2] == ("H4", "candidate")


def test_what_is_undecided_is_said_where_there_is_no_cause() -> None:
    found = find_root_cause(hypotheses(H1=Verdict.INVALIDATED, H3=Verdict.INCONCLUSIVE))
    assert found.code is CauseCode.NONE
    assert [found.sentence.count(id) for id in ORDER] == [
        0,
        0,
        1,
        0,
        2,
        0,
        0,
    ]  # H3 as tested and as undecided


def test_what_is_not_significant_over_all_hypotheses_is_not_validated() -> None:
    def decided(id: str, p: float) -> HypothesisResult:
        return planted_hypothesis(id).replace(verdict=Verdict.VALIDATED, p_value=p)

    found = correct_over_all({"H4": decided("H4", 0.04), "H7": decided("H7", 0.01)})
    assert (found["H7"].verdict, found["H7"].codes) == (Verdict.VALIDATED, ("test.planted",))
    both = correct_over_all({"H4": decided("H4", 0.04), "H7": decided("H7", 0.04)})
    assert {h.verdict for h in both.values()} == {Verdict.INCONCLUSIVE}
    assert both["H4"].codes == ("test.planted", CommonReason.NOT_SIGNIFICANT)


def test_a_statistical_hypothesis_behind_a_proven_cause_says_so() -> None:
    found = mark_downstream(hypotheses(H2=Verdict.VALIDATED, H3=Verdict.VALIDATED, H4=Verdict.INCONCLUSIVE))
    assert found["H4"].codes == ("test.planted", CommonReason.DOWNSTREAM)
    assert found["H3"].codes == ("test.planted",)  # mechanistic


def test_a_cause_that_is_not_significant_over_all_hypotheses_has_nothing_downstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note came before the correction, and called a cause proven that was undecided in the end."""
    p_values = {"H4": 0.04, "H7": 0.04}
    for id, one in all_hypotheses().items():
        found = planted_hypothesis(id).replace(verdict=Verdict.INVALIDATED)
        if id in p_values:
            found = found.replace(verdict=Verdict.VALIDATED, p_value=p_values[id])
        monkeypatch.setattr(type(one), "decide", lambda self, investigation, found=found: found)
    order = DecisionOrder(
        Investigation(tmp_path, load("smoke"), (0,), inline(), lambda phase, done, total: None),
        ORDER,
        False,
        (),
        AnnouncedVerdicts(lambda found: None),
        lambda reference: None,
    )
    decided = order.decide(ReferenceResult(codes=("reference.equal",), sentence="planted"))
    assert find_root_cause(decided).id is None
    assert decided["H7"].codes == ("test.planted", CommonReason.NOT_SIGNIFICANT)


@pytest.mark.usefixtures("equal")
def test_verdicts_are_told_as_they_are_reached_but_for_those_that_others_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(id: str) -> Callable[[Hypothesis, Investigation], HypothesisResult]:
        found = planted_hypothesis(id).replace(verdict=Verdict.INVALIDATED)
        statistical = found.replace(p_value=0.5, kind="statistical")
        return lambda self, investigation: statistical if id in ("H4", "H7") else found

    for id in ORDER:
        monkeypatch.setattr(type(all_hypotheses()[id]), "decide", planted(id))
    told: list[HypothesisResult] = []
    departed: list[ReferenceResult] = []
    result = _tiny(
        tmp_path, hypotheses=ORDER, on_verdict=told.append, on_departure=departed.append, experiments=()
    )
    assert departed == []
    assert [hypothesis.id for hypothesis in told] == ["H5", "H6", "H1", "H2", "H3"]
    after = [result.hypotheses[id].decided_after_s for id in ORDER]
    assert all(seconds is not None for seconds in after)
    assert after == sorted(s for s in after if s is not None)


@pytest.mark.usefixtures("equal")
def test_every_step_is_measured_whatever_the_settings_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is not measured would count as one that does not train the encoder."""
    measured = []

    def decide(self: Hypothesis, investigation: Investigation) -> HypothesisResult:
        measured.append(investigation.subject.monitor)
        return planted_hypothesis("H2").replace(verdict=Verdict.INVALIDATED)

    monkeypatch.setattr(type(all_hypotheses()["H2"]), "decide", decide)
    for place, monitor in enumerate(({"every": 25}, {"enabled": False})):
        config = with_settings(load("smoke"), monitor=monitor)
        _tiny(tmp_path / f"{place}", ("H2",), subject=config, experiments=())
    assert [(one.enabled, one.every) for one in measured] == [(True, 1), (True, 1)]


def test_a_candidate_is_named_where_nothing_is_proven() -> None:
    leading = changed(hypotheses(H4=Verdict.INCONCLUSIVE, H7=Verdict.INCONCLUSIVE), "H7", candidate=True)
    assert find_root_cause(leading)[:2] == ("H7", "candidate")
    both = changed(leading, "H4", candidate=True)
    assert find_root_cause(both)[:2] == ("H4", "candidate")
    assert find_root_cause(changed(both, "H2", verdict=Verdict.VALIDATED))[:2] == ("H2", "proven")


@pytest.mark.parametrize(
    ("faults", "cause"),
    [
        pytest.param((), None, marks=pytest.mark.slow),
        pytest.param(("cached-context",), "H2", marks=pytest.mark.slow),
        pytest.param(("freeze-skips-optimizer",), "H2", marks=pytest.mark.slow),
        pytest.param(("decoder-not-loaded",), "H1", marks=pytest.mark.slow),
        pytest.param(("decoder-cycles-mismatch",), "H1", marks=pytest.mark.slow),
        pytest.param(("context-ignored",), "H3", marks=pytest.mark.slow),
        pytest.param(("context-nan",), "H3", marks=pytest.mark.slow),
        (("labels-from-new-batch",), "H5"),
        pytest.param(
            ("stale-votes",), "H6", marks=pytest.mark.slow
        ),  # tests/commands/test_investigation.py has H6
    ],
)
def test_the_injected_fault_is_named(
    tmp_path: Path, decoder: Path, faults: tuple[str, ...], cause: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETRM_CACHE", str(decoder.parent.parent))
    result = investigate(
        with_settings(load("smoke"), faults=faults, train={"decoder": decoder}),
        tmp_path,
        name="preset smoke",
        tier=replace(SCREENING, seeds=1, short_seeds=1),
        launcher=inline(),
        command="etrm investigate",
        progress=lambda phase, done, total: None,
        experiments=() if faults else (frozen_decoder.run,),
        hypotheses=("H5", "H6", "H1", "H2", "H3"),
        until_root_cause=bool(faults),
    )
    assert result.root_cause == cause
    assert (result.reproduce.device, result.reproduce.precision) == (describe(pick_device("auto")), "float32")
    assert result.root_cause_confidence == (cause and "proven")
    assert result.hypotheses["H4"].verdict is Verdict.NOT_RUN
    stopped = CommonReason.STOPPED_AT_ROOT_CAUSE if faults else CommonReason.NOT_SELECTED
    assert result.hypotheses["H4"].codes == (stopped,)
    assert Result.read(tmp_path / "result.json") == result


@pytest.mark.usefixtures("equal")
def test_it_stops_behind_a_proven_cause_and_not_behind_a_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def planted(id: str) -> Callable[[Hypothesis, Investigation], HypothesisResult]:
        def decide(self: Hypothesis, investigation: Investigation) -> HypothesisResult:
            asked.append(id)
            verdict = Verdict.VALIDATED if id == "H2" else Verdict.INCONCLUSIVE
            return planted_hypothesis(id).replace(verdict=verdict, candidate=id == "H6")

        return decide

    for id in ORDER:
        monkeypatch.setattr(type(all_hypotheses()[id]), "decide", planted(id))
    result = _tiny(tmp_path, hypotheses=ORDER, until_root_cause=True)
    assert asked == ["H5", "H6", "H1", "H2"]
    assert result.root_cause == "H2"
    assert result.cause_code is CauseCode.PROVEN
    assert result.hypotheses["H3"].codes == (CommonReason.STOPPED_AT_ROOT_CAUSE,)
    assert result.experiments == ()


def test_a_folder_of_another_subject_is_refused(tmp_path: Path) -> None:
    (tmp_path / "subject.json").write_text("{}")
    with raises_code(RunFolderError, "investigate.other-subject", tmp_path):
        _tiny(tmp_path)


def test_a_folder_in_which_another_process_investigates_is_refused(tmp_path: Path) -> None:
    with lock_folder(tmp_path), raises_code(FolderInUseError, "run.in-use", tmp_path):
        _tiny(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_runs_of_other_code_are_refused(tmp_path: Path) -> None:
    (tmp_path / "subject.json").write_text('{"code": "an older version"}')
    with raises_code(RunFolderError, "investigate.other-code", tmp_path):
        _tiny(tmp_path)


@pytest.mark.usefixtures("equal")
def test_runs_of_another_device_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def named(name: str) -> None:
        monkeypatch.setattr("etrm.hardware.describe", lambda device: name)

    named("cuda: NVIDIA H100")
    _tiny(tmp_path, hypotheses=(), experiments=())
    named("cpu: a laptop")
    with pytest.raises(RunFolderError) as caught:
        _tiny(tmp_path, hypotheses=(), experiments=())
    assert (caught.value.got, caught.value.allowed) == ("device cpu: a laptop", "device cuda: NVIDIA H100")


def test_a_departure_of_no_hypothesis_is_the_answer_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    departs = ReferenceResult(
        codes=("reference.departs-in-shared-code",), sentence="planted", stage=PipelineStage.HALTING
    )
    monkeypatch.setattr(decision_order, "compare_start", lambda *args: departs)
    told: list[ReferenceResult] = []
    result = _tiny(tmp_path, hypotheses=(), experiments=(), on_departure=told.append)
    assert told == [departs]
    assert (result.root_cause, result.cause_code) == (None, CauseCode.DEPARTS)
    assert "planted" in result.sentence


def test_an_unknown_hypothesis_is_refused(tmp_path: Path) -> None:
    with raises_code(ConfigError, "investigate.unknown-hypothesis", repr("H9")):
        _tiny(tmp_path, hypotheses=("H9",))


def _tiny(
    out: Path,
    hypotheses: tuple[str, ...] = ("H1",),
    *,
    until_root_cause: bool = False,
    subject: Config | None = None,
    **options: Any,
) -> Result:
    return investigate(
        subject or load("smoke"),
        out,
        name="preset smoke",
        tier=replace(SCREENING, seeds=1, short_seeds=1),
        launcher=inline(),
        command="etrm investigate",
        progress=lambda phase, done, total: None,
        hypotheses=hypotheses,
        until_root_cause=until_root_cause,
        **options,
    )


def _short_runs(verdict: Verdict, seeds: int) -> HypothesisResult:
    arm = Arm(name="few", role="control", difference="planted")
    runs = tuple(
        Run(arm="few", seed=seed, folder=f"few/{seed}", steps=1, wall_s=1.0, state="finished")
        for seed in range(seeds)
    )
    return planted_hypothesis("H4").replace(verdict=verdict, arms=(arm,), runs=runs)


@pytest.mark.parametrize(
    ("seeds", "short", "more"), [(3, 0, 5), (3, 3, 5), (3, 5, 10), (5, 5, 10), (8, 8, 16)]
)
def test_what_is_undecided_gets_more_seeds_than_it_had(seeds: int, short: int, more: int) -> None:
    found = hypotheses(H3=Verdict.INCONCLUSIVE) | {"H4": _short_runs(Verdict.INCONCLUSIVE, short)}
    assert_holds(describe_no_cause(found, seeds), "H3, H4", f"--seeds {more}")


def test_more_seeds_are_not_the_next_step_where_everything_is_decided() -> None:
    found = {"H4": _short_runs(Verdict.INVALIDATED, 5)}
    assert "--seeds" not in describe_no_cause(found, 3)


def test_hypotheses_are_chosen_by_several_texts_in_the_order_given() -> None:
    smoke = load("smoke")
    assert choose(smoke, "H5", "H2, H5", "H1") == ("H5", "H2", "H1")
    assert choose(smoke, "H2", "all") == choose(smoke, "all") == ORDER
