"""A lock on a folder, so that only one process writes to it."""

from __future__ import annotations

import fcntl
import os
import platform
import time
from pathlib import Path
from typing import IO

from etrm.errors import FolderInUseError, RunFolderError


def lock_folder(folder: Path) -> IO[bytes]:
    """Lock an existing folder until the returned file is closed or the process ends.

    The file ``lock`` contains the id of the process.

    Raises:
        FolderInUseError: another process is working in the folder.
        RunFolderError: the file system has no locks.
        OSError: the file cannot be written.
    """
    # Opened without truncation: until we hold the lock, the file contains the id of another process.
    lock = (folder / "lock").open("a+b", buffering=0)
    try:
        _take(lock, folder)
        lock.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        lock.write(f"process {os.getpid()} on {platform.node()}, since {since}\n".encode())
    except BaseException:
        lock.close()
        raise
    return lock


def _take(lock: IO[bytes], folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        raise FolderInUseError(
            "run.in-use",
            f"another process is working in {folder}",
            got=lock.read(200).decode("utf-8", "replace").strip(),
            next_step="wait until it ends, or use another --out",
        ) from error
    except OSError as error:
        raise RunFolderError(
            "run.no-locks",
            f"{folder} cannot be locked, so another process could write to it at the same time",
            got=error.strerror or str(error),
            next_step="use an --out on a file system that supports locks",
        ) from error
