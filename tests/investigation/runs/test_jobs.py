"""Arms are resumable runs: finished ones are kept, foreign ones refused, failed ones reported."""

from __future__ import annotations

import multiprocessing
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from etrm.checkpoints.folder_lock import lock_folder
from etrm.config import load, with_settings
from etrm.errors import (
    CheckpointWriteError,
    EtrmError,
    FolderInUseError,
    FolderWriteError,
    RunFolderError,
    TrainingError,
)
from etrm.investigation.runs import measured_run
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.code_version import code_hash
from etrm.investigation.runs.jobs import Job, run_jobs, work
from etrm.investigation.runs.launchers import Launcher, launcher
from etrm.investigation.unlisted.program import InThisProcess
from tests.errors import assert_holds, raises_code
from tests.investigation.planted import inline

ONE, TWO = launcher("processes", 1), launcher("processes", 2)
CATCHING = Launcher(1, lambda folder: nullcontext(InThisProcess()))
"""Keeps the errors of calls as a pool of processes does."""
CONFIG = with_settings(load("smoke"), train={"steps": 4, "threads": 1}, monitor={"reference_every": None})


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    jobs = [Job(ArmId("arm"), 0, CONFIG)]
    first = run_jobs(tmp_path, jobs, inline(), lambda done, total: None)
    stamp = (tmp_path / "runs/arm/seed0/metrics.jsonl").stat().st_mtime_ns
    second = run_jobs(tmp_path, jobs, inline(), lambda done, total: None)
    assert (tmp_path / "runs/arm/seed0/metrics.jsonl").stat().st_mtime_ns == stamp
    assert first == second
    run = first[ArmId("arm"), 0]
    assert (run.finished, run.steps, run.record.folder) == (True, 4, "runs/arm/seed0")


def test_a_folder_of_another_subject_is_refused_before_anything_runs(tmp_path: Path) -> None:
    run_jobs(tmp_path, [Job(ArmId("arm"), 0, CONFIG)], inline(), lambda done, total: None)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = Job(ArmId("arm"), 0, with_settings(CONFIG, train={"lr": 0.5}))
    with raises_code(RunFolderError, "investigate.other-subject", tmp_path, other.folder):
        run_jobs(tmp_path, [Job(ArmId("new"), 0, CONFIG), other], inline(), lambda done, total: None)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.processes
def test_a_failed_run_is_reported_and_the_others_finish(tmp_path: Path) -> None:
    broken = with_settings(CONFIG, train={"decoder": "/nowhere/at/all"})
    found = run_jobs(
        tmp_path,
        [Job(ArmId("bad"), 0, broken), Job(ArmId("good"), 0, CONFIG)],
        TWO,
        lambda done, total: None,
    )
    assert found[ArmId("bad"), 0].failed
    assert found[ArmId("bad"), 0].record.code == "checkpoint.not-a-checkpoint"
    assert_holds(found[ArmId("bad"), 0].reason, "/nowhere/at/all")
    assert found[ArmId("good"), 0].finished


@pytest.mark.processes
def test_a_worker_that_dies_is_reported_and_nothing_crashes(tmp_path: Path) -> None:
    long = with_settings(CONFIG, train={"steps": 5000})

    def kill_when_training(done: int, total: int) -> None:
        if 0 < done < total:
            for process in multiprocessing.active_children():
                process.kill()

    found = run_jobs(tmp_path, [Job(ArmId("killed"), 0, long)], ONE, kill_when_training)
    assert found[ArmId("killed"), 0].failed
    assert found[ArmId("killed"), 0].record.code == "run.worker-ended"


def test_a_run_in_which_another_process_works_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "runs/arm/seed0"
    folder.mkdir(parents=True)
    with lock_folder(folder), raises_code(FolderInUseError, "run.in-use", folder):
        run_jobs(tmp_path, [Job(ArmId("arm"), 0, CONFIG)], CATCHING, lambda done, total: None)
    assert [path.name for path in folder.iterdir()] == ["lock"]


@pytest.mark.parametrize(
    "problem",
    [FolderWriteError("run.not-writable", "full"), CheckpointWriteError("checkpoint.not-written", "full")],
)
def test_a_full_disk_is_no_result_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: EtrmError
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise problem

    monkeypatch.setattr(measured_run, "measured_run", fail)
    with pytest.raises(type(problem)):
        run_jobs(tmp_path, [Job(ArmId("arm"), 0, CONFIG)], CATCHING, lambda done, total: None)
    assert not list(tmp_path.rglob("summary.json"))


def test_a_run_that_a_signal_stopped_is_no_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a cluster ends one of its jobs."""
    monkeypatch.setattr(measured_run, "measured_run", lambda *args, **options: None)
    job = Job(ArmId("arm"), 0, CONFIG)
    with raises_code(TrainingError, "run.stopped-by-signal", tmp_path):
        work(job, str(tmp_path), code_hash(CONFIG))
    work(replace(job, until_departure=True), str(tmp_path), code_hash(CONFIG))


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    seen = []
    run_jobs(
        tmp_path,
        [Job(ArmId("arm"), 0, CONFIG)],
        inline(),
        lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (4, 4)


def test_a_run_can_have_its_place_outside_the_folder_of_the_investigation(tmp_path: Path) -> None:
    home = tmp_path / "kept"
    job = Job(ArmId("arm"), 0, CONFIG, place=home)
    found = run_jobs(
        tmp_path / "one", [job, Job(ArmId("other"), 0, CONFIG)], inline(), lambda done, total: None
    )
    run = found[ArmId("arm"), 0]
    assert (run.finished, run.steps, run.path) == (True, 4, home)
    assert [path.name for path in (tmp_path / "one" / "runs").iterdir()] == ["other"]
    stamp = (home / "metrics.jsonl").stat().st_mtime_ns
    assert run_jobs(tmp_path / "two", [job], inline(), lambda done, total: None)[ArmId("arm"), 0] == run
    assert (home / "metrics.jsonl").stat().st_mtime_ns == stamp
