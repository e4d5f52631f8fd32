"""Files that are written as a whole: a reader sees the earlier content or the new one."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def write_whole(path: str | Path, text: str) -> None:
    """Write a file under another name, then rename it.

    Raises:
        OSError: It cannot be written; nothing is left then.
    """
    check_target(path)
    partial = Path(f"{path}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def check_target(path: str | Path) -> None:
    """Check, before the work whose result it is, that a file can be written. Nothing is changed.

    Raises:
        OSError: It is a folder, or there is no folder around it that may be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise _error(errno.EISDIR, path)
    if not path.parent.is_dir():
        raise _error(errno.ENOTDIR if path.parent.exists() else errno.ENOENT, path.parent)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise _error(errno.EACCES, path.parent)


def _error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))
