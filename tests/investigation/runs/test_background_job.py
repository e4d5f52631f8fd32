"""A run in the background is waited for or stopped, and never made twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from etrm.config import load, with_settings
from etrm.errors import RunFolderError
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.background_job import BackgroundJob
from etrm.investigation.runs.jobs import Job, count_steps, is_finished, run_jobs
from etrm.investigation.runs.launchers import launcher
from tests.errors import raises_code
from tests.investigation.planted import inline

CONFIG = with_settings(load("smoke"), train={"steps": 4, "threads": 1}, monitor={"reference_every": None})
JOB = Job(ArmId("arm"), 0, CONFIG)


@pytest.mark.processes
def test_it_trains_while_something_else_is_done(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with BackgroundJob(tmp_path, JOB, launcher("processes", 1)) as job:
        job.wait(lambda done, total: seen.append((done, total)))
    assert is_finished(tmp_path, JOB)
    assert {total for _, total in seen} == {4}
    assert run_jobs(tmp_path, [JOB], inline(), lambda done, total: None)[JOB.key].steps == 4


@pytest.mark.processes
def test_what_is_not_waited_for_is_stopped_and_can_be_resumed(tmp_path: Path) -> None:
    long = Job(ArmId("arm"), 0, with_settings(CONFIG, train={"steps": 5000}))

    class Enough(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done:
            raise Enough

    with pytest.raises(Enough), BackgroundJob(tmp_path, long, launcher("processes", 1)) as job:
        job.wait(stop)
    assert not is_finished(tmp_path, long)
    done = count_steps(tmp_path, long)
    assert 0 < done < 5000
    assert any((tmp_path / long.folder / "checkpoints").glob("step_*"))  # that it resumes from


def test_a_finished_run_is_not_made_again(tmp_path: Path) -> None:
    run_jobs(tmp_path, [JOB], inline(), lambda done, total: None)
    stamp = (tmp_path / JOB.folder / "metrics.jsonl").stat().st_mtime_ns
    with BackgroundJob(tmp_path, JOB, inline()) as job:
        job.wait(lambda done, total: pytest.fail("there is nothing to wait for"))
    assert (tmp_path / JOB.folder / "metrics.jsonl").stat().st_mtime_ns == stamp


def test_a_folder_of_another_subject_is_refused(tmp_path: Path) -> None:
    run_jobs(tmp_path, [JOB], inline(), lambda done, total: None)
    other = Job(ArmId("arm"), 0, with_settings(CONFIG, train={"lr": 0.5}))
    with (
        raises_code(RunFolderError, "investigate.other-subject", tmp_path, other.folder),
        BackgroundJob(tmp_path, other, inline()),
    ):
        pytest.fail("it was not refused")
