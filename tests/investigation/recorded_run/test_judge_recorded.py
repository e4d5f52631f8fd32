"""What is accused in whole recorded runs, and what is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from etrm.checkpoints.run_folder import read_config
from etrm.config import with_settings
from etrm.errors import CheckpointError
from etrm.investigation.hypotheses.h2_encoder_gradients import HYPOTHESIS
from etrm.investigation.judgement import CommonReason
from etrm.investigation.measurements.encoder_gradients import GradientReason
from etrm.investigation.recorded_run import judge_recorded
from etrm.investigation.recorded_run.judge_recorded import SOURCES, judge_recorded_run
from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.recorded_run.recorded_verdicts import TRAIN_AGAIN, TRAIN_LONGER
from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from etrm.investigation.records import Verdict
from etrm.investigation.result import CauseCode, RecordedRun, Result
from etrm.investigation.run import investigate
from etrm.investigation.runs.budget import SCREENING
from tests.investigation.planted import inline
from tests.investigation.recorded_run.conftest import edit_json


def judge(folder: Path) -> tuple[RecordedRun, dict[tuple[str, str], RecordedFact]]:
    recorded, facts = judge_recorded_run(folder, read_config(folder))
    return recorded, {(f.row.code, f.row.item): f for f in facts if f.row.passed is False}


def test_nothing_is_accused_in_a_healthy_run(kept_healthy: Path) -> None:
    recorded, failed = judge(kept_healthy)
    assert failed == {}
    assert (recorded.steps, recorded.checkpoints) == (20, (10, 20))
    assert len(recorded.evidence) > 20


@pytest.mark.slow
def test_weights_of_a_fault_that_the_settings_do_not_show_are_named(
    with_past_fault: Callable[[str], Path],
) -> None:
    _, failed = judge(with_past_fault("context-detached"))
    proofs = {key[0] for key, fact in failed.items() if fact.proves}
    assert {"run.uncovered-steps", "run.steps-without-movement", "run.tensors-unmoved"} <= proofs
    assert {fact.hypotheses for fact in failed.values() if fact.proves} == {("H2",)}
    assert ("run.steps-repeat", "10") in failed


def test_what_cannot_be_built_is_a_difference_and_judges_the_rest(healthy: Path) -> None:
    config = read_config(healthy)
    edit_json(healthy / "config.json", data=config.data.model_dump(mode="json") | {"source": "nowhere"})
    recorded, facts = judge_recorded_run(healthy, config)
    assert {one.code for one in recorded.differences} == {"run.other-setting", "run.not-built"}
    assert "run.uncovered-steps" in {fact.row.code for fact in facts}
    not_judged = {fact.row.item for fact in facts if fact.row.code == "run.not-judged"}
    assert "trained-context" in not_judged


def test_a_source_that_fails_does_not_lose_the_others(
    kept_healthy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge_broken(run: RunUnderTest) -> Iterator[RecordedFact]:
        raise CheckpointError("checkpoint.damaged", "planted")

    monkeypatch.setattr(judge_recorded, "SOURCES", (judge_broken,))
    facts = judge_recorded._judge(RunUnderTest.read(kept_healthy), (judge_broken, SOURCES[1]))
    assert [fact.row.code for fact in facts][:2] == ["run.not-judged", "run.steps-not-finite"]


def test_a_setting_of_the_investigation_is_compared_with_that_of_the_run(kept_healthy: Path) -> None:
    changed = with_settings(read_config(kept_healthy), train={"lr": 0.5})
    recorded, _ = judge_recorded_run(kept_healthy, changed)
    assert ("run.other-setting", "train.lr") in {(one.code, one.name) for one in recorded.differences}


def investigate_run(folder: Path, out: Path, *hypotheses: str) -> Result:
    """Investigate a recorded run as `etrm investigate RUN` does, with one seed."""
    return investigate(
        read_config(folder),
        out,
        name=f"run {folder}",
        tier=replace(SCREENING, seeds=1, short_seeds=1),
        launcher=inline(),
        command="etrm investigate",
        progress=lambda phase, done, total: None,
        experiments=(),
        hypotheses=hypotheses,
        recorded_in=folder,
    )


@pytest.fixture
def cache(decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETRM_CACHE", str(decoder.parent.parent))


@pytest.mark.slow
@pytest.mark.usefixtures("cache", "equal")
def test_the_weights_of_a_past_fault_name_its_hypothesis_although_new_runs_refute_it(
    with_past_fault: Callable[[str], Path], tmp_path: Path
) -> None:
    result = investigate_run(with_past_fault("context-detached"), tmp_path, "H2")
    assert (result.root_cause, result.root_cause_confidence) == ("H2", "proven")
    found = result.hypotheses["H2"]
    assert found.codes == (GradientReason.EVERY_STEP_TRAINS, CommonReason.RECORDED)
    assert result.next_step == TRAIN_AGAIN
    assert Result.read(tmp_path / "result.json") == result


@pytest.mark.usefixtures("cache", "equal")
def test_a_healthy_run_accuses_nothing_and_is_recorded_in_the_result(
    kept_healthy: Path, tmp_path: Path
) -> None:
    result = investigate_run(kept_healthy, tmp_path)
    assert (result.root_cause, result.cause_code) == (None, CauseCode.NOT_TESTED)
    assert result.recorded is not None
    assert result.recorded.accusations == ()


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_a_healthy_run_departs_nowhere_and_its_hypothesis_is_not_accused(
    kept_healthy: Path, tmp_path: Path
) -> None:
    result = investigate_run(kept_healthy, tmp_path, "H2")
    assert result.cause_code is CauseCode.NONE
    assert result.hypotheses["H2"].codes == (GradientReason.EVERY_STEP_TRAINS,)


def write_finding(folder: Path, rule: str) -> None:
    """Write a critical finding that held to the end of the run."""
    evidence = {"metric": "coverage", "value": 1e-5, "threshold": 1e-3, "first_step": 3, "last_step": 19}
    words = {"message": "planted", "cause": "c", "remedy": "r", "code": "swamped", "consequences": []}
    finding = {"rule": rule, "module": "encoder", "severity": "critical", "evidence": evidence}
    (folder / "findings.json").write_text(json.dumps([finding | words]))


@pytest.mark.usefixtures("cache", "equal")
def test_what_the_run_found_itself_is_never_answered_with_nothing(healthy: Path, tmp_path: Path) -> None:
    """No hypothesis is tested here; a collapse in so few steps is undecided."""
    write_finding(healthy, "GRAD001")
    result = investigate_run(healthy, tmp_path / "gradient")
    assert (result.root_cause, result.cause_code) == (None, CauseCode.RECORDED)
    assert result.recorded is not None
    assert [(one.hypothesis, one.item) for one in result.recorded.accusations] == [("H2", "GRAD001 encoder")]
    assert "GRAD001" in result.sentence
    write_finding(healthy, "COLLAPSE001")
    result = investigate_run(healthy, tmp_path / "collapse")
    assert (result.cause_code, result.next_step) == (CauseCode.NONE, TRAIN_LONGER)
    assert "COLLAPSE001" in result.sentence


@pytest.mark.usefixtures("cache", "equal")
def test_a_critical_finding_makes_its_hypothesis_the_leading_candidate(
    healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_finding(healthy, "GRAD001")
    refuted = HYPOTHESIS.not_run("test.planted", "planted").replace(verdict=Verdict.INVALIDATED)
    monkeypatch.setattr(type(HYPOTHESIS), "decide", lambda self, investigation: refuted)
    result = investigate_run(healthy, tmp_path, "H2")
    assert (result.root_cause, result.root_cause_confidence) == ("H2", "candidate")
