"""Whether a run is at work, and how it ended: read from its lock and its records, neither touched.

running    a process holds the lock
finished   the newest checkpoint is of the last step that the config asks for
stopped    no process, and a checkpoint holds every logged step: an orderly end
failed     no process, and steps were logged that no checkpoint holds: an error, or a kill
unknown    not finished, and it cannot be seen from here whether a process is at work: the run was
           started on another machine, or this system does not say who holds locks

A process that was killed just after it saved looks stopped; nothing was lost then.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from etrm.checkpoints import format as checkpoints
from etrm.errors import RunFolderError

LOCKS = Path("/proc/locks")
"""Where Linux lists every lock of this machine."""


class State(StrEnum):
    """See the module."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Status:
    """A state, and who is at work or why it is not known."""

    state: State
    detail: str = ""

    @property
    def ended(self) -> bool:
        """Nothing will come any more."""
        return self.state in (State.FINISHED, State.STOPPED, State.FAILED)

    def __str__(self) -> str:
        return f"{self.state} ({self.detail})" if self.detail else str(self.state)


def read_status(folder: Path, steps: int, logged: int, holder: int | None) -> Status:
    """The state of a run folder.

    Args:
        folder: of the run.
        steps: that its config asks for.
        logged: the last step in its metrics.
        holder: of its lock, asked for before the metrics were read, see :func:`find_lock_holder`.

    Raises:
        RunFolderError: its record of where it ran is damaged.
    """
    if holder is not None:
        return Status(State.RUNNING, f"process {holder}")
    names = [
        path.name.removeprefix(checkpoints.PREFIX) for path in checkpoints.list_saved(folder / "checkpoints")
    ]
    newest = max((int(name) for name in names if name.isdecimal()), default=-1)
    if newest >= steps:
        return Status(State.FINISHED)
    host, here = _host(folder), platform.node()
    if host not in (None, here):
        return Status(State.UNKNOWN, f"started on {host}, seen from {here}")
    if not LOCKS.exists():
        return Status(State.UNKNOWN, f"there is no {LOCKS} to see who works")
    if newest >= logged:
        return Status(State.STOPPED)
    return Status(State.FAILED, f"newest checkpoint: step {newest}" if newest >= 0 else "no checkpoint")


def find_lock_holder(lock: Path) -> int | None:
    """The process that holds the lock of a file; None where none can be seen from here."""
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
    """Whether a process has the file open; on some file systems the device numbers of locks say nothing."""
    try:
        with os.scandir(f"/proc/{process}/fd") as descriptors:
            return any(_is_same(file, Path(descriptor.path)) for descriptor in descriptors)
    except PermissionError:  # another user's process: the inode number has to do
        return True
    except FileNotFoundError:  # it has just ended
        return False


def _is_same(file: Path, descriptor: Path) -> bool:
    try:
        return file.samefile(descriptor)
    except OSError:  # closed meanwhile, or no file
        return False


def _host(folder: Path) -> str | None:
    """Where the run was last begun; None where that was not recorded."""
    try:
        host = json.loads((folder / "run.json").read_text("utf-8")).get("host")
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError) as error:
        raise RunFolderError(
            "run.damaged-file", f"{folder / 'run.json'} is damaged", got=str(error)
        ) from error
    return host if isinstance(host, str) else None
