"""Launchers: names and settings, how arms are handed over and stopped, and submitit's local executor for real."""

from __future__ import annotations

import builtins
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from etrm.config import Config, load, with_settings
from etrm.errors import ConfigError, Interrupted
from etrm.investigation.runs import launchers as launch
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.jobs import Job, run_jobs
from etrm.investigation.runs.launchers import Launcher, launcher
from etrm.process_pool import end_workers
from etrm.training.execution.stop_request import StopRequest
from tests.errors import raises_code
from tests.investigation.planted import inline

CONFIG = with_settings(load("smoke"), train={"steps": 3, "threads": 1})
JOBS = [Job(ArmId("arm"), seed, CONFIG) for seed in range(5)]


def silent(done: int, total: int) -> None:
    """No progress."""


@pytest.mark.parametrize(
    ("name", "settings", "code", "values"),
    [
        ("cloud", [], "launch.unknown-launcher", ["'cloud'", "slurm"]),
        ("processes", ["timeout_min=1"], "launch.settings-without-cluster", ["'timeout_min=1'"]),
        ("slurm", ["partition"], "launch.unreadable-setting", ["'partition'", "KEY=VALUE"]),
    ],
)
def test_what_cannot_be_is_refused(name: str, settings: list[str], code: str, values: list[str]) -> None:
    with raises_code(ConfigError, code, *values):
        launcher(name, 1, settings)


def test_more_threads_than_cores_are_refused_with_a_fair_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "usable_cores", lambda: 8)
    assert launcher("processes", 2, threads=4).threads == 4
    with raises_code(ConfigError, "launch.too-many-threads", 3, 4) as caught:
        launcher("processes", 3, threads=4)
    assert (caught.value.got, caught.value.allowed) == ("12 threads on 8 cores", "--threads 2 with --jobs 3")
    assert launcher("processes", 9).threads == 1  # as it has always been: more runs than cores only wait


def test_runs_have_the_threads_that_were_asked_and_what_is_kept_has_one(tmp_path: Path) -> None:
    # Threads on busy cores wait for each other at every operation: a step is enough.
    brief = with_settings(CONFIG, train={"steps": 1, "warmup_steps": 0}, monitor={"enabled": False})
    jobs = [Job(ArmId("arm"), 0, brief), Job(ArmId("kept"), 0, brief, place=tmp_path / "kept")]
    found = run_jobs(tmp_path, jobs, inline(threads=2), silent)
    folders = [run.path for run in found.values()]
    read = [Config.from_json((folder / "config.json").read_text("utf-8")) for folder in folders]
    assert [config.train.threads for config in read] == [2, 1]


def test_without_submitit_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = builtins.__import__

    def missing(name: str, *arguments: Any) -> Any:
        if name == "submitit":
            raise ImportError(name)
        return known(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    with raises_code(ConfigError, "launch.submitit-absent", "slurm") as caught:
        run_jobs(tmp_path, JOBS[:1], launcher("slurm", 1), silent)
    assert caught.value.next_step == "pip install 'submitit>=1.5'"


class Planted:
    """An executor whose calls end as planted, each after it was asked twice."""

    def __init__(self, ends: Sequence[BaseException | None]) -> None:
        self.ends = list(ends)
        self.folders: list[str] = []
        self.running = self.most = 0
        self.stopped = 0

    def submit(self, call: Callable[..., None], *arguments: Any) -> Any:
        self.folders.append(arguments[1])
        self.running += 1
        self.most = max(self.most, self.running)
        return PlantedAttempt(self, self.ends.pop(0))

    def stop(self, attempts: Sequence[Any]) -> None:
        self.stopped = len(attempts)


class PlantedAttempt:
    def __init__(self, executor: Planted, end: BaseException | None) -> None:
        self.executor, self.end, self.asked = executor, end, 0

    def done(self) -> bool:
        self.asked += 1
        if self.asked == 2:
            self.executor.running -= 1
        return self.asked >= 2

    def exception(self) -> BaseException | None:
        return self.end


def planted(executor: Planted, jobs: int) -> Launcher:
    @contextmanager
    def opened(folder: Path) -> Iterator[Planted]:
        yield executor

    return Launcher(jobs, opened)


def test_no_more_run_at_a_time_than_asked_for(tmp_path: Path) -> None:
    executor = Planted([None] * 5)
    run_jobs(tmp_path, JOBS, planted(executor, 2), silent)
    assert (len(executor.folders), executor.most) == (5, 2)


def test_an_arm_is_tried_once_more_and_then_reported(tmp_path: Path) -> None:
    executor = Planted([RuntimeError("the node was lost"), None])
    assert run_jobs(tmp_path / "once", JOBS[:1], planted(executor, 1), silent) == {}  # nothing was really run
    assert len(executor.folders) == 2
    executor = Planted([RuntimeError("the node was lost")] * 2)
    (run,) = run_jobs(tmp_path / "twice", JOBS[:1], planted(executor, 1), silent).values()
    assert (run.failed, run.reason, run.diverged) == (True, "the node was lost", False)
    assert executor.ends == []


def test_ctrl_c_stops_what_runs(tmp_path: Path) -> None:
    executor = Planted([None] * 5)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run_jobs(tmp_path, JOBS, planted(executor, 3), interrupt)
    assert executor.stopped == 3


def _stand_still(began: str) -> None:
    """Stands for what a worker does before and after it trains: nothing there handles a signal."""
    Path(began).touch()
    while True:
        time.sleep(0.01)


def _train_until_stopped(began: str, ended: str) -> None:
    """Stands for training, which ends after its step."""
    stop = StopRequest()
    with stop.on_signals():
        Path(began).touch()
        while not stop.made:
            time.sleep(0.01)
    Path(ended).touch()


def _return(began: str) -> None:
    Path(began).touch()


@pytest.mark.processes
def test_workers_end_at_a_stop_whatever_they_do(tmp_path: Path) -> None:
    began, ended = [str(tmp_path / f"began{i}") for i in range(3)], tmp_path / "ended"
    with launch.processes(3) as executor:
        idle = executor.submit(_return, began[0])
        busy = [
            executor.submit(_stand_still, began[1]),
            executor.submit(_train_until_stopped, began[2], str(ended)),
        ]
        late = threading.Timer(
            60, end_workers, [cast(Any, executor)._executor]
        )  # else the test would not end
        late.start()
        while not (idle.done() and all(Path(file).exists() for file in began)):
            time.sleep(0.01)
        executor.stop(busy)
    assert late.is_alive()
    late.cancel()
    assert ended.exists()
    assert [type(attempt.exception()) for attempt in busy] == [Interrupted, type(None)]


PREPARED = """
import sys
from etrm.investigation.runs.launchers import prepare_processes, processes

def check():
    wanted = {"etrm.investigation.runs.measured_run", "torch._dynamo"}
    assert wanted <= sys.modules.keys(), wanted - sys.modules.keys()

if __name__ == "__main__":
    prepare_processes()
    assert "torch" not in sys.modules
    with processes(1) as executor:
        print(executor.submit(check).exception())
"""
"""Prints None if a worker has imported what a run needs before its first call, and its parent has not."""


@pytest.mark.skipif(sys.platform != "linux", reason="a server forks the workers on Linux alone")
def test_workers_have_imported_what_a_run_needs(tmp_path: Path) -> None:
    (tmp_path / "prepared.py").write_text(PREPARED)
    command = [sys.executable, str(tmp_path / "prepared.py")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("None\n", "")


def test_a_stop_of_an_idle_worker_ends_its_next_call_alone() -> None:
    stop, done = launch.WorkerStop(), []
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop.heed()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted):
            stop.call(done.append, 1)
        stop.call(done.append, 2)
        with pytest.raises(Interrupted):
            stop.call(signal.raise_signal, signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done == [2]


@pytest.mark.slow
def test_submitit_runs_arms_in_jobs_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    jobs = [
        *JOBS[:2],
        Job(ArmId("diverges"), 0, with_settings(load("smoke"), train={"lr": 1e30, "threads": 1})),
    ]
    found = run_jobs(tmp_path, jobs, launcher("local", 2, ["timeout_min=5"]), silent)
    assert [found[ArmId("arm"), seed].steps for seed in (0, 1)] == [3, 3]
    assert (found[ArmId("diverges"), 0].failed, found[ArmId("diverges"), 0].diverged) == (True, True)
    assert len(list((tmp_path / "submitit").glob("*_submitted.pkl"))) == 3
    with raises_code(ConfigError, "launch.submitit-refuses", "local", "no_such"):
        run_jobs(tmp_path / "x", JOBS[:1], launcher("local", 1, ["no_such=1"]), silent)
    again = run_jobs(tmp_path, jobs, launcher("processes", 1), silent)  # what another launcher ran is kept
    assert again == found
