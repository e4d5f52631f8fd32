"""Which code may run: what the user named on this account, as it was then.

A config that somebody else wrote may name any file, and looking at a run must not execute it. So code that a config
names is imported only if the user named it (``--set``, ``--inject``, ``--config``), or allowed it with
``--allow-code``. That is remembered in the cache folder, for a file by its path and the SHA-256 of its content: another
file, or the same file with other content, is not allowed by it. Installed entry points are always allowed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from etrm.atomic_files import write_atomically
from etrm.cache_folder import cache_folder
from etrm.errors import ExtensionError, WriteError
from etrm.extensions.names import CodeName, parse


def allow(text: str) -> None:
    """Note that the user named this code, so that it may run as it is now.

    Args:
        text: the name of code; any other text is ignored.

    Raises:
        ExtensionError: the file cannot be read.
        WriteError: the cache folder cannot be written.
    """
    code = parse(text)
    if code is None:
        return
    note = _note(code, read_source(code) if code.is_file else b"")
    if note.exists():
        return
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(note, f"{code.place}\n")
    except OSError as error:
        raise WriteError(
            "extension.not-noted",
            f"it cannot be noted that {code} may run",
            got=f"{note.parent}: {error.strerror or error}",
            next_step="set ETRM_CACHE to a folder that can be written",
        ) from error


def check_allowed(code: CodeName, source: bytes = b"") -> None:
    """Refuse code that the user did not name.

    Args:
        code: its name.
        source: content of its file; empty for a module.

    Raises:
        ExtensionError: the user did not name it, or the file has changed since then.
    """
    if not _note(code, source).exists():
        raise ExtensionError(
            "extension.not-allowed",
            f"the code {code} may not run: a config names it, and you did not, or the file has changed since",
            allowed="code that you named with --set, --inject or --config, as it was then",
            next_step="read the file; then give --allow-code, or name it on the command line",
        )


def read_source(code: CodeName) -> bytes:
    """The content of the file of a name.

    Raises:
        ExtensionError: there is no such file, or it cannot be read.
    """
    try:
        return Path(code.place).read_bytes()
    except OSError as error:
        raise ExtensionError(
            "extension.no-file",
            f"the code {code} cannot be read",
            got=error.strerror or str(error),
            allowed="a Python file, as file.py:Name",
            next_step="name the file where it is; a run folder keeps a copy of its code in code/",
        ) from error


def _note(code: CodeName, source: bytes) -> Path:
    key = f"{code.place}\0".encode() + hashlib.sha256(source).digest()
    return cache_folder() / "allowed-code" / hashlib.sha256(key).hexdigest()
