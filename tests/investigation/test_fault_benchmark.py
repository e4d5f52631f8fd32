"""Cases, scores and the page of the bench from planted outcomes; one real case; what a folder refuses."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from etrm.checkpoints.folder_lock import lock_folder
from etrm.config import Config, load, with_settings
from etrm.errors import (
    CheckpointWriteError,
    ConfigError,
    EtrmError,
    FolderInUseError,
    ProcessError,
    RunFolderError,
)
from etrm.evaluation import binomial_interval
from etrm.investigation import fault_benchmark as fault_bench
from etrm.investigation.fault_benchmark import (
    HEALTHY,
    HEALTHY_SYMBOLIC,
    NOTHING,
    Case,
    CaseOutcome,
    cases,
    score,
    subject_of,
)
from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses
from etrm.investigation.records import Run, Verdict
from etrm.investigation.runs.budget import SCREENING, TIERS, Tier
from etrm.training.faults import FAULTS, apply_faults, build_recipe
from reports.pages.fault_benchmark_page import page
from tests.errors import raises_code

TIER = replace(SCREENING, seeds=1, short_seeds=1, pretrain_steps=20)
SMOKE = with_settings(load("smoke"), train={"threads": 1})


def test_every_fault_and_control_is_a_case_with_seeds_of_its_own() -> None:
    found = cases(SMOKE, (), seeds=3, per_case=2)
    assert len(found) == 3 * (len(FAULTS) + len(HEALTHY) + len(HEALTHY_SYMBOLIC))
    assert {case.seed for case in found} == {0, 2, 4}
    assert len({case.folder for case in found}) == len(found)
    expected = {case.fault: case.expected for case in found}
    assert expected["cached-context"] == "H2"
    others = ("halting-stuck", "encode-all-discard", "python-loop-predicates")
    assert {expected[name] for name in (*HEALTHY, *HEALTHY_SYMBOLIC, *others)} == {NOTHING}


def test_an_unknown_name_is_refused() -> None:
    with raises_code(ConfigError, "fault.unknown", repr("zzz")):
        cases(SMOKE, ("zzz",), 1, 1)


def test_a_fault_that_does_not_act_on_the_base_is_refused() -> None:
    with raises_code(ConfigError, "fault.needs-recursive", "decoder-moves"):
        cases(load("symbolic-rules"), ("decoder-moves",), 1, 1)


def test_subjects_have_the_fault_and_controls_have_none() -> None:
    for case in cases(SMOKE, (), 1, 1):
        subject = subject_of(case, SMOKE)
        assert subject.faults == ((case.fault,) if case.fault in FAULTS else ())
        build_recipe(subject)  # no case is refused
    frozen = subject_of(Case("healthy-frozen-decoder", 0, NOTHING), SMOKE)
    assert frozen.train.freeze_decoder_steps == SMOKE.train.steps
    assert subject_of(Case("healthy-trm", 0, NOTHING), SMOKE).model.variant == "trm"


def test_cases_of_the_symbolic_solver_have_it_as_their_model() -> None:
    for name in ("assignment-lost", "python-loop-predicates", *HEALTHY_SYMBOLIC):
        subject = subject_of(Case(name, 0, NOTHING), SMOKE)
        assert (subject.model.variant, subject.train.threads) == ("symbolic", 1)
    rules = load("symbolic-rules")
    found = {case.fault: subject_of(case, rules) for case in cases(rules, (), 1, 1)}
    assert {subject.data for subject in found.values()} == {rules.data}
    assert {"context-detached", "assignment-lost", "healthy-symbolic"} < found.keys()
    assert {"decoder-moves", "healthy-trm"}.isdisjoint(found)
    for subject in found.values():
        build_recipe(subject)


@pytest.mark.parametrize("preset", ["symbolic", "symbolic-rules"])
def test_every_case_of_the_symbolic_solver_has_settings_that_go_together(preset: str) -> None:
    base = load(preset)
    for case in cases(base, (), 1, 1):
        apply_faults(subject_of(case, base))


def planted(fault: str, expected: str, named: str) -> CaseOutcome:
    return CaseOutcome(
        Case(fault, 0, expected), named, "proven" if named[0] == "H" else "", "why | not", 10.0
    )


OUTCOMES = [
    planted("cached-context", "H2", "H2"),
    planted("context-scale", "H3", "H2"),
    planted("lr-too-high", "H4", NOTHING),
    planted("healthy", NOTHING, NOTHING),
    planted("halting-stuck", NOTHING, "H4"),
    planted("healthy-trm", NOTHING, "error"),
]


def test_the_score_counts_faults_and_controls_apart() -> None:
    named, quiet = score(OUTCOMES)
    assert (named.right, named.cases) == (1, 3)
    assert (quiet.right, quiet.cases) == (1, 3)
    assert named.interval == binomial_interval(1, 3)


def test_the_page_has_the_score_the_matrix_and_what_was_missed() -> None:
    text = page(OUTCOMES, TIER)
    assert "screening, 1 seed, 20 pretraining steps" in text
    assert text.count("1 of 3 (33.3%") == 2
    lines = [[cell.strip() for cell in line.split("|")] for line in text.split("\n\n")[1].splitlines()]
    matrix = {line[1]: line[2:-1] for line in lines}
    columns = matrix["injected / found"]
    assert columns == ["H2", "H3", "H4", "none", "error"]
    assert {
        key: matrix[key][columns.index(named)] for key, named in (("H2", "H2"), ("H3", "H2"), ("H4", "none"))
    } == {
        "H2": "1",
        "H3": "1",
        "H4": "1",
    }
    assert matrix["none"][columns.index("error")] == "1"
    assert "why \\| not" in text
    assert page(OUTCOMES[:1], TIER).count("not measured") == 1


def run_planted(
    root: Path, monkeypatch: pytest.MonkeyPatch, ends: dict[str, CaseOutcome | EtrmError], tier: Tier = TIER
) -> list[CaseOutcome]:
    """Run a benchmark whose cases end as planted, in threads."""

    def investigate(case: Case, subject: Config, out: Path, tier: Tier) -> CaseOutcome:
        end = ends[case.fault]
        if isinstance(end, EtrmError):
            raise end
        return end

    monkeypatch.setattr(fault_bench, "_prepare", lambda *arguments: None)
    monkeypatch.setattr(fault_bench, "_investigate", investigate)
    monkeypatch.setattr(fault_bench, "start_workers", ThreadPoolExecutor)
    chosen = [planted(name, NOTHING, NOTHING).case for name in ends]
    return fault_bench.run(SMOKE, chosen, root, workers=1, tier=tier, progress=lambda *progress: None)


def test_a_case_that_an_error_of_the_machine_ended_has_no_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = CheckpointWriteError("checkpoint.not-written", "the disk is full")
    ended = {name: planted(name, NOTHING, NOTHING) for name in ("healthy", "healthy-trm")}
    with raises_code(CheckpointWriteError, full.code):
        run_planted(tmp_path, monkeypatch, {"healthy": full, "healthy-trm": ended["healthy-trm"]})
    kept = json.loads((tmp_path / "cases.json").read_text("utf-8"))["outcomes"]
    assert [outcome["case"]["fault"] for outcome in kept] == ["healthy-trm"]
    found = run_planted(tmp_path, monkeypatch, {"healthy": ended["healthy"], "healthy-trm": full})
    assert found == list(ended.values())  # only the first was run again


def test_a_folder_with_the_cases_of_another_tier_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: dict[str, CaseOutcome | EtrmError] = {"healthy": planted("healthy", NOTHING, NOTHING)}
    run_planted(tmp_path, monkeypatch, ends)
    for tier in (TIERS["full"], replace(TIER, pretrain_steps=21)):
        with raises_code(RunFolderError, "bench.other-subject", tmp_path, got="another tier"):
            run_planted(tmp_path, monkeypatch, ends, tier)


def test_a_folder_in_which_another_benchmark_works_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lock_folder(tmp_path), raises_code(FolderInUseError, "run.in-use", tmp_path):
        run_planted(tmp_path, monkeypatch, {"healthy": planted("healthy", NOTHING, NOTHING)})
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize(("code", "kept"), [("run.worker-ended", False), ("checkpoint.absent", True)])
def test_a_case_with_a_run_that_was_ended_from_outside_has_no_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, kept: bool
) -> None:
    run = Run(arm="few", seed=0, folder="few", steps=1, wall_s=1.0, state="failed", code=code, reason="why")
    failed = all_hypotheses()["H4"].not_run("test.planted", "planted")
    failed = failed.replace(verdict=Verdict.ERROR, runs=(run,))
    result = SimpleNamespace(
        hypotheses={"H4": failed}, root_cause=None, root_cause_confidence=None, sentence=""
    )
    monkeypatch.setattr(fault_bench, "investigate", lambda *arguments, **options: result)
    with nullcontext() if kept else raises_code(ProcessError, "bench.run-ended", tmp_path):
        outcome = fault_bench._investigate(Case("healthy", 0, NOTHING), SMOKE, tmp_path, TIER)
        assert outcome.named == "error"


@pytest.mark.slow
def test_a_case_is_investigated_kept_and_not_run_again(
    tmp_path: Path, decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETRM_CACHE", str(decoder.parent.parent))
    chosen = [Case("stale-votes", 0, "H6")]

    def run() -> list[CaseOutcome]:
        return fault_bench.run(
            SMOKE,
            chosen,
            tmp_path / "bench",
            workers=1,
            tier=TIER,
            progress=lambda phase, done, total: None,
        )

    (outcome,) = run()
    assert outcome.right
    assert outcome.confidence == "proven"
    monkeypatch.setattr(fault_bench, "_investigate", lambda *arguments: pytest.fail("it was run again"))
    assert run() == [outcome]
    with raises_code(RunFolderError, "bench.other-subject", tmp_path / "bench"):
        fault_bench.run(
            replace_steps(),
            chosen,
            tmp_path / "bench",
            workers=1,
            tier=TIER,
            progress=lambda phase, done, total: None,
        )


def replace_steps() -> fault_bench.Config:
    return SMOKE.model_copy(update={"train": SMOKE.train.model_copy(update={"steps": 19})})


def test_an_outcome_is_right_where_the_cause_is_the_fault_s() -> None:
    assert OUTCOMES[0].right
    assert not replace(OUTCOMES[0], named="error").right
