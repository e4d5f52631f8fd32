"""Arms as resumable training runs, several at a time.

Each run is a config in a folder. A finished run is never repeated; an interrupted one resumes where it
stopped; a failed one is tried once more and then reported as failed.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from etrm.atomic_files import write_atomically
from etrm.checkpoints.run_folder import explain_refused_writes, read_record
from etrm.config import Config, with_settings
from etrm.errors import (
    OPERATING_ERRORS,
    EtrmError,
    FolderInUseError,
    Interrupted,
    NonFiniteError,
    ProcessError,
    RunFolderError,
    TrainingError,
    WriteError,
)
from etrm.investigation.runs import cache
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.code_version import code_hash
from etrm.investigation.runs.launchers import Attempt, Launcher
from etrm.investigation.runs.loaded_run import SUMMARY, LoadedRun, load_run

OnProgress = Callable[[int, int], None]
"""Function that takes the number of finished steps and of all steps."""
RunKey = tuple[ArmId, int]
"""The arm and the seed of a run."""


@dataclass(frozen=True)
class Job:
    """One arm with one seed.

    Attributes:
        arm: the arm to which the run belongs.
        seed: the seed of the run, which is also in the config.
        config: the config to train.
        measure: whether to measure the held-in loss before and after, and the held-out score.
        held_out: whether to measure the held-out score too, which takes longest.
        gap: whether to compare the encoder with searched contexts on held-out tasks too.
        shared: whether the run is the same in every investigation and is kept for the next one.
        place: the folder of the run, if it is not one of the investigation's.
        until_departure: whether to stop at the first step that departs from the reference. Such a run has not
            finished, and a job without this continues it.
    """

    arm: ArmId
    seed: int
    config: Config
    measure: bool = False
    held_out: bool = True
    gap: bool = False
    shared: bool = False
    place: Path | None = None
    until_departure: bool = False

    @property
    def folder(self) -> str:
        """Path of the run's folder, relative to the investigation's folder, or absolute."""
        return self.arm.folder(self.seed) if self.place is None else str(self.place.absolute())

    @property
    def key(self) -> RunKey:
        """Key under which the run is found."""
        return self.arm, self.seed


def run_jobs(
    root: Path,
    jobs: Sequence[Job],
    launcher: Launcher,
    progress: OnProgress,
    loaded: Mapping[RunKey, LoadedRun] | None = None,
) -> dict[RunKey, LoadedRun]:
    """Run all jobs that are not finished.

    Args:
        root: the investigation's folder.
        jobs: the jobs to run.
        launcher: the launcher, which determines where and how many run at a time.
        progress: function that is called with the number of finished steps and of all steps.
        loaded: runs that were loaded before; those of finished jobs are not read again.

    Returns:
        every job's run that has ended.

    Raises:
        Interrupted: Ctrl-C; finished steps are kept.
        RunFolderError: the folder contains an investigation of another config, or runs of another device, or another
            process works on one of the runs.
        WriteError: a run cannot be written.
    """
    jobs = prepare_jobs(root, jobs, launcher)
    for job in jobs:
        if job.shared and not is_finished(root, job):
            cache.restore(job.config, root / job.folder, launcher.elsewhere)
    waiting = [job for job in jobs if not is_finished(root, job)]
    total = sum(job.config.train.steps for job in jobs)
    if waiting:
        _run_all(
            root, waiting, launcher, lambda: progress(sum(count_steps(root, job) for job in jobs), total)
        )
    for job in waiting:
        if job.shared and is_finished(root, job):
            cache.keep(job.config, root / job.folder, launcher.elsewhere)
    progress(total, total)
    known, ran = loaded or {}, {job.key for job in waiting}
    found = {
        job.key: known[job.key]
        if job.key in known and job.key not in ran
        else load_run(root, job.arm, job.seed, job.folder)
        for job in jobs
    }
    return {key: run for key, run in found.items() if run is not None}


def prepare_jobs(root: Path, jobs: Sequence[Job], launcher: Launcher) -> list[Job]:
    """The jobs with the threads of the launcher.

    Raises:
        RunFolderError: the folder contains an investigation of another config, or runs of another device.
    """
    jobs = [_threaded(job, launcher.threads) for job in jobs]
    for job in jobs:
        _check_config(root, job)
        if not launcher.elsewhere:
            _check_device(root, job)
    return jobs


def _threaded(job: Job, threads: int) -> Job:
    if job.shared or job.place is not None:
        return job
    return replace(job, config=with_settings(job.config, train={"threads": threads}))


def _run_all(root: Path, waiting: list[Job], launcher: Launcher, tick: Callable[[], None]) -> None:
    queue = deque((job, 1) for job in waiting)
    running: list[tuple[Attempt, Job, int]] = []
    with launcher.open(root) as executor:
        try:
            while queue or running:
                while queue and len(running) < launcher.jobs:
                    job, attempt = queue.popleft()
                    try:
                        started = executor.submit(work, job, str(root / job.folder), code_hash(job.config))
                    except BrokenExecutor as error:  # no worker is left
                        _record_failure(root / job.folder, _ended_worker(job, error))
                    else:
                        running.append((started, job, attempt))
                ended = [entry for entry in running if entry[0].done()]
                for entry in ended:
                    running.remove(entry)
                    started, job, attempt = entry
                    problem = started.exception()
                    if isinstance(problem, FolderInUseError | WriteError):  # nothing to record there
                        raise problem
                    if problem is not None and attempt == 1 and not isinstance(problem, BrokenExecutor):
                        queue.append((job, 2))
                    elif isinstance(problem, BrokenExecutor):
                        _record_failure(root / job.folder, _ended_worker(job, problem))
                    elif problem is not None:
                        _record_failure(root / job.folder, problem)
                tick()
                if running and not ended:
                    time.sleep(0.2)
        except KeyboardInterrupt:
            executor.stop([started for started, _, _ in running])
            raise Interrupted from None
        except EtrmError:
            executor.stop([started for started, _, _ in running])
            raise


def _ended_worker(job: Job, problem: BrokenExecutor) -> ProcessError:
    return ProcessError(
        "run.worker-ended",
        f"the process that trained {job.folder} has ended, and reported no error",
        got=str(problem),
        next_step="free memory if it was short, and run the same command again, which continues the run",
    )


ENDED_FROM_OUTSIDE = frozenset({"run.worker-ended", "run.stopped-by-signal"})
"""The codes of runs that something outside of them ended: they are no result of the run."""


def work(job: Job, folder: str, code: str) -> None:
    """Run one job in this process, resuming it if it was interrupted.

    Args:
        job: the run.
        folder: the folder of the run.
        code: hash of the code of the process that started this one, under which the run is kept.

    Raises:
        TrainingError: a signal to this process stopped the run.
        EtrmError: one of OPERATING_ERRORS, which is no result of the run.
    """
    from etrm.investigation.runs.measured_run import measured_run  # torch is loaded in the worker alone

    path = Path(folder)
    began = time.perf_counter()
    try:
        _check_code(job, code)
        summary = measured_run(
            job.config,
            path,
            measure=job.measure,
            held_out=job.held_out,
            gap=job.gap,
            until_departure=job.until_departure,
        )
    except OPERATING_ERRORS:
        raise
    except EtrmError as error:  # it would be the same again
        _record_failure(path, error)
        return
    if summary is None and not job.until_departure:
        raise TrainingError(
            "run.stopped-by-signal",
            f"a signal stopped the run in {path}",
            next_step="run the same command again, which continues it",
        )
    if summary is not None:
        before = _sum_earlier_seconds(path)
        _write_summary(path, {"state": "finished", "wall_s": before + time.perf_counter() - began, **summary})


def _check_code(job: Job, code: str) -> None:
    """Raise RunFolderError where this process loaded other code than the one that started it."""
    found = code_hash(job.config)
    if found != code:
        raise RunFolderError(
            "investigate.code-edited",
            "the code was edited while its runs were being made",
            got=f"sha256 {found[:16]}…",
            allowed=f"sha256 {code[:16]}…, the code of the process that started them",
            next_step="run the same command again with another --out",
        )


def _record_failure(path: Path, error: BaseException) -> None:
    diverged = isinstance(error, NonFiniteError)
    # A sentence of the report quotes the reason, so it is one line.
    code, reason = (error.code, error.brief) if isinstance(error, EtrmError) else ("", str(error))
    summary = {"state": "failed", "code": code, "reason": reason, "wall_s": 0.0, "diverged": diverged}
    _write_summary(path, summary)


def _sum_earlier_seconds(path: Path) -> float:
    summary = path / SUMMARY
    return float(json.loads(summary.read_text("utf-8"))["wall_s"]) if summary.exists() else 0.0


def _write_summary(path: Path, summary: dict[str, Any]) -> None:
    with explain_refused_writes(path):
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / SUMMARY, json.dumps(summary, indent=1, sort_keys=True) + "\n")


def _check_config(root: Path, job: Job) -> None:
    """Raise RunFolderError where the job's folder holds a run of another config."""
    file = root / job.folder / "config.json"
    if file.exists() and Config.from_json(file.read_text("utf-8")) != job.config:
        raise RunFolderError(
            "investigate.other-subject",
            f"{root} contains an investigation of another config: that of {job.folder} differs",
            allowed="the same preset, settings and faults, which continue it",
            next_step="give another --out",
        )


def _check_device(root: Path, job: Job) -> None:
    """Raise RunFolderError where the job's run was made or begun on another device: arms are compared."""
    before = read_record(root / job.folder).get("device")
    now = cache.compute_of(job.config).device
    if before not in (None, now):
        raise RunFolderError(
            "investigate.other-device",
            f"the run in {root / job.folder} was made on another device, and arms of two devices are not compared",
            got=now,
            allowed=before,
            next_step="continue on that device, or give another --out",
        )


def is_finished(root: Path, job: Job) -> bool:
    """Whether the run of a job has ended, so that it would not be run again."""
    path = root / job.folder / SUMMARY
    if not path.exists():
        return False
    summary = json.loads(path.read_text("utf-8"))
    return summary["state"] == "finished" or bool(summary.get("diverged"))  # it would diverge again


def count_steps(root: Path, job: Job) -> int:
    """The number of steps that the run of a job has logged."""
    path = root / job.folder / "metrics.jsonl"
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return min(job.config.train.steps, sum(1 for _ in file))
