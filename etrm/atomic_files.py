"""Atomic file writes: write to a temporary name, flush, then rename. And a check that a file can be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from etrm.errors import WriteError


def write_atomically(path: Path, data: str | bytes) -> None:
    """Replace the file ``path`` with ``data``. A reader sees the old content or the new one, never a mixture.

    Raises:
        OSError: the file cannot be written.
    """
    if not path.name:  # "." or "/"
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_target(path: Path, *, folder: bool = False) -> None:
    """Check, before the work whose result it is, that a file can be written. Nothing is changed.

    Args:
        path: the file. Folders above it may be missing.
        folder: whether it is a folder that gets files.

    Raises:
        WriteError: it cannot be written.
    """
    try:
        reason = _find_obstacle(path, folder)
    except OSError as error:  # for instance a name that is too long
        reason = error.strerror or str(error)
    if reason:
        raise WriteError(
            "output.not-writable",
            f"{path} cannot be written",
            got=reason,
            next_step=f"name a {'folder' if folder else 'file'} in a folder that you may write to",
        )


def _find_obstacle(path: Path, folder: bool) -> str:
    """Return why a file cannot be written, or an empty text."""
    existing = next((place for place in (path, *path.parents) if _exists(place)), None)
    if existing is None:
        return "the current folder no longer exists"
    if existing == path and not folder:
        if path.is_dir():
            return "it is a folder, not a file"
        existing = path.parent  # where another file takes its name
    if not existing.is_dir():
        return f"{existing} is not a folder"
    return "" if os.access(existing, os.W_OK | os.X_OK) else f"you may not write to {existing}"


def _exists(path: Path) -> bool:
    """Return whether there is a file, a folder or a link, even one that leads nowhere."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def sync_folder(path: Path) -> None:
    """Flush the folder ``path`` to disk, so that renames in it survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
