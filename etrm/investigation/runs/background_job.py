"""A run that trains while this process does something else."""

from __future__ import annotations

import time
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from etrm.investigation.runs.code_version import code_hash
from etrm.investigation.runs.jobs import Job, OnProgress, count_steps, is_finished, prepare_jobs, work
from etrm.investigation.runs.launchers import Attempt, Executor, Launcher

WAIT_S = 0.2  # between two looks, which read a file each


class BackgroundJob:
    """Trains a job from entering to leaving the context; what was not waited for is stopped, and can be resumed.

    A job that fails is left for :func:`~etrm.investigation.runs.jobs.run_jobs`, which tries it again.

    Args:
        root: the folder of the investigation.
        job: the job.
        launcher: the launcher of the run.
    """

    def __init__(self, root: Path, job: Job, launcher: Launcher) -> None:
        self._root = root
        self._job = job
        self._launcher = launcher
        self._left = ExitStack()
        self._executor: Executor | None = None
        self._attempt: Attempt | None = None

    def __enter__(self) -> BackgroundJob:
        """Start the job, unless it has finished before.

        Raises:
            RunFolderError: the folder contains an investigation of another config, or runs of another device.
        """
        [self._job] = prepare_jobs(self._root, [self._job], self._launcher)
        if not is_finished(self._root, self._job):
            self._executor = self._left.enter_context(self._launcher.open(self._root))
            try:
                arguments = self._job, str(self._root / self._job.folder), code_hash(self._job.config)
                self._attempt = self._executor.submit(work, *arguments)
            except BrokenExecutor:  # no worker is left; the job is run later
                self._attempt = None
        return self

    def wait(self, progress: OnProgress) -> None:
        """Wait until the job ends.

        Args:
            progress: function that is called with the number of finished steps and of all steps.
        """
        while self._attempt is not None and not self._attempt.done():
            progress(count_steps(self._root, self._job), self._job.config.train.steps)
            time.sleep(WAIT_S)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None and self._attempt is not None and not self._attempt.done():
            self._executor.stop([self._attempt])
        self._left.close()
