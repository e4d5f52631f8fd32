"""The state of a run, read from its lock and its records without changing them.

running    a process holds the lock
finished   the newest checkpoint is of the last step of the config
stopped    no process holds the lock, and the newest checkpoint includes every logged step: the run ended in order
failed     no process holds the lock, and steps were logged after the newest checkpoint: an error, or a kill
unknown    not finished, and it is not visible from here whether a process holds the lock: the run was started on
           another machine, or this system does not list locks

A process that was killed right after it saved a checkpoint looks stopped. Nothing is lost in this case.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from etrm.checkpoints.run_folder import read_record
from etrm.checkpoints.saved_steps import PREFIX, list_saved

LOCKS = Path("/proc/locks")
"""The file in which Linux lists all locks of this machine."""


class State(StrEnum):
    """The state of a run, see the docstring of the module."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Status:
    """A state, with the process that holds the lock, or the reason why the state is unknown."""

    state: State
    detail: str = ""

    @property
    def ended(self) -> bool:
        """Whether no process will write to the run any more."""
        return self.state in (State.FINISHED, State.STOPPED, State.FAILED)

    def __str__(self) -> str:
        return f"{self.state} ({self.detail})" if self.detail else str(self.state)


def read_status(folder: Path, steps: int, logged: int, holder: int | None) -> Status:
    """Return the state of a run folder.

    Args:
        folder: the run folder.
        steps: the number of steps in the config.
        logged: the last step in the metrics.
        holder: the process that held the lock before the metrics were read, see :func:`find_lock_holder`.

    Raises:
        RunFolderError: ``run.json`` is damaged.
    """
    if holder is not None:
        return Status(State.RUNNING, f"process {holder}")
    names = [path.name.removeprefix(PREFIX) for path in list_saved(folder / "checkpoints")]
    newest = max((int(name) for name in names if name.isdecimal()), default=-1)
    if newest >= steps:
        return Status(State.FINISHED)
    host, here = _host(folder), platform.node()
    if host not in (None, here):
        return Status(State.UNKNOWN, f"started on {host}, seen from {here}")
    if not LOCKS.exists():
        return Status(State.UNKNOWN, f"{LOCKS}, which lists the locks, does not exist")
    if newest >= logged:
        return Status(State.STOPPED)
    return Status(State.FAILED, f"newest checkpoint: step {newest}" if newest >= 0 else "no checkpoint")


def find_lock_holder(lock: Path) -> int | None:
    """Return the id of the process that locks a file; None if no such process is visible from here."""
    if not LOCKS.exists():
        return None
    try:
        inode = str(lock.stat().st_ino)
    except FileNotFoundError:
        return None
    for line in LOCKS.read_text("ascii").splitlines():
        words = line.split()  # 1: FLOCK ADVISORY WRITE 7105 fe:00:2154820 0 EOF; a waiting one has "->"
        if words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode and _has_open(words[4], lock):
            return int(words[4])
    return None


def _has_open(process: str, file: Path) -> bool:
    """Return whether a process has the file open. On some file systems the device numbers of locks are not usable."""
    try:
        with os.scandir(f"/proc/{process}/fd") as descriptors:
            return any(_is_same(file, Path(descriptor.path)) for descriptor in descriptors)
    except PermissionError:  # another user's process: only its inode number can be compared
        return True
    except FileNotFoundError:  # it has just ended
        return False


def _is_same(file: Path, descriptor: Path) -> bool:
    try:
        return file.samefile(descriptor)
    except OSError:  # closed in the meantime, or not a file
        return False


def _host(folder: Path) -> str | None:
    """Return the host on which the run was last started; None if it was not recorded."""
    host = read_record(folder).get("host")
    return host if isinstance(host, str) else None
