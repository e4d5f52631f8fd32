"""Where arms run: processes of this machine, or jobs that submitit starts, on this machine or on a cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from etrm.errors import ConfigError, Interrupted
from etrm.process_pool import prepare_server, start_workers

LAUNCHERS = ("processes", "local", "slurm")
_IMPORTED = "etrm.investigation.runs.measured_run", "torch._dynamo"
"""Modules that every run needs, which take two to three seconds to import; optimisers import the second."""


class Attempt(Protocol):
    """A call that was submitted: a future of the standard library, or a job of submitit."""

    def done(self) -> bool:
        """Whether it has ended, well or not."""

    def exception(self) -> BaseException | None:
        """Return the exception with which it ended, or None."""


class Executor(Protocol):
    """Starts calls, and stops them."""

    def submit(self, call: Callable[..., None], *arguments: Any) -> Attempt:
        """Start a call, or queue it."""

    def stop(self, attempts: Sequence[Any]) -> None:
        """Tell running calls to end, and drop queued ones."""


@dataclass(frozen=True)
class Launcher:
    """How arms are run.

    Attributes:
        jobs: the number of jobs at a time.
        open: gives the executor, which may keep its files in the folder.
        threads: the CPU threads of each run. The numbers of a run depend on them to rounding, so the default is 1 on
            every machine, and runs that are cached for other investigations always use 1.
        elsewhere: names the machines of a cluster, whose devices this process cannot see; empty for this machine.
    """

    jobs: int
    open: Callable[[Path], AbstractContextManager[Executor]]
    threads: int = 1
    elsewhere: str = ""


def launcher(name: str, jobs: int, settings: Sequence[str] = (), threads: int = 1) -> Launcher:
    """The launcher of that name.

    Args:
        name: ``processes``; ``local`` or ``slurm`` are submitit's.
        jobs: the number of jobs at a time.
        settings: the settings of submitit's executor, as key=value, e.g. ``slurm_partition=gpu`` or ``timeout_min=60``.
        threads: the CPU threads of each run.

    Raises:
        ConfigError: it is not known, takes no settings, submitit is not installed or refuses a setting, or processes
            of this machine would need more cores than it has for that number of threads.
    """
    if name not in LAUNCHERS:
        raise ConfigError(
            "launch.unknown-launcher",
            f"unknown --launcher {name!r}",
            allowed=", ".join(LAUNCHERS),
            next_step="etrm investigate --help says what each launcher needs",
        )
    if name == "processes":
        if settings:
            raise ConfigError(
                "launch.settings-without-cluster",
                f"processes take no --launcher-set {settings[0]!r}",
                next_step="--launcher slurm or local",
            )
        cores = usable_cores()
        if threads > 1 and jobs * threads > cores:
            raise ConfigError(
                "launch.too-many-threads",
                f"--jobs {jobs} of --threads {threads} would wait for each other",
                got=f"{jobs * threads} threads on {cores} cores",
                allowed=f"--threads {max(1, cores // jobs)} with --jobs {jobs}",
                next_step="give fewer jobs or threads",
            )
        return Launcher(jobs, lambda folder: processes(jobs), threads)
    parameters = dict(_parse(setting) for setting in settings)
    elsewhere = " ".join((name, *sorted(settings))) if name == "slurm" else ""
    return Launcher(jobs, lambda folder: _submitit(name, folder, parameters), threads, elsewhere)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Futures:
    """An executor of the standard library's kind, which submitit's are too."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def submit(self, call: Callable[..., None], *arguments: Any) -> Attempt:
        attempt: Attempt = self._executor.submit(call, *arguments)
        return attempt

    def stop(self, attempts: Sequence[Any]) -> None:
        for attempt in attempts:
            attempt.cancel()


class WorkerStop:
    """A SIGTERM to a worker: it ends the call that runs there, or else the next one, and never the worker.

    If a worker dies, its pool waits until all others end, and gives them no more calls. One whose call was stopped
    would then wait for the next call.
    """

    def __init__(self) -> None:
        self._runs = False
        self._asked = False

    def heed(self) -> None:
        """Handle the signal in this process."""
        signal.signal(signal.SIGTERM, self._handle)

    def call(self, call: Callable[..., None], *arguments: Any) -> None:
        """Run a call.

        Raises:
            Interrupted: the signal came before, or while nothing in the call handled it.
        """
        self._runs = True
        try:
            if self._asked:
                self._asked = False
                raise Interrupted
            call(*arguments)
        finally:
            self._runs = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._runs:
            raise Interrupted
        self._asked = True


_WORKER_STOP = WorkerStop()


def _heed_stop() -> None:
    _WORKER_STOP.heed()


def _call(call: Callable[..., None], *arguments: Any) -> None:
    _WORKER_STOP.call(call, *arguments)


class _Processes(_Futures):
    def submit(self, call: Callable[..., None], *arguments: Any) -> Attempt:
        return super().submit(_call, call, *arguments)

    def stop(self, attempts: Sequence[Any]) -> None:
        super().stop(attempts)
        for process in multiprocessing.active_children():
            process.terminate()  # SIGTERM: the trainer saves a checkpoint of the current step


def prepare_processes() -> None:
    """Start to import what the processes of this machine need, while the caller does something else."""
    prepare_server(_IMPORTED)


@contextmanager
def processes(jobs: int) -> Iterator[Executor]:
    """Processes of this machine."""
    with start_workers(jobs, _heed_stop, imported=_IMPORTED) as pool:
        yield _Processes(pool)


@contextmanager
def _submitit(cluster: str, folder: Path, parameters: dict[str, Any]) -> Iterator[Executor]:
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(
            "launch.submitit-absent",
            f"--launcher {cluster} needs the package submitit, which is not installed",
            next_step="pip install 'submitit>=1.5'",
        ) from error
    try:
        executor = submitit.AutoExecutor(folder=str(folder / "submitit"), cluster=cluster)
        executor.update_parameters(name="etrm", **parameters)
    except (
        NameError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # of a setting, or of a cluster not there
        raise ConfigError(
            "launch.submitit-refuses",
            f"submitit refuses --launcher {cluster}",
            got=str(error).splitlines()[0],
            next_step="install what it names, or use --launcher processes",
        ) from error
    yield _Futures(executor)


def _parse(setting: str) -> tuple[str, Any]:
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise ConfigError(
            "launch.unreadable-setting",
            f"cannot read --launcher-set {setting!r}",
            allowed="KEY=VALUE, e.g. timeout_min=60",
            next_step="etrm investigate ... --launcher-set timeout_min=60",
        )
    return key, int(value) if value.lstrip("-").isdigit() else value
