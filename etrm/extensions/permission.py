"""Permission for code to run.

A config from somebody else can name any file, and inspecting a run must not execute it. Code that a config names is
therefore imported only if the user named it (``--set``, ``--inject``, ``--config``) or allowed it with
``--allow-code``. The permission is stored in the cache folder, for a file by its path and the SHA-256 of its content,
so it does not apply to another or a changed file. Installed entry points are always allowed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from etrm.atomic_files import write_atomically
from etrm.cache_folder import cache_folder
from etrm.errors import ExtensionError, WriteError
from etrm.extensions.names import CodeName, parse


def allow(text: str) -> None:
    """Allow code that the user named to run, with its current content.

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
            f"the permission of {code} to run cannot be stored",
            got=f"{note.parent}: {error.strerror or error}",
            next_step="set ETRM_CACHE to a folder that can be written",
        ) from error


def check_allowed(code: CodeName, source: bytes = b"") -> None:
    """Refuse code that the user did not name.

    Args:
        code: the name of the code.
        source: the content of its file; empty for a module.

    Raises:
        ExtensionError: the user did not name it, or the file has changed since then.
    """
    if not _note(code, source).exists():
        raise ExtensionError(
            "extension.not-allowed",
            f"the code {code} is not allowed to run: only a config names it, or the file has changed since you did",
            allowed="code that you named with --set, --inject or --config, with unchanged content",
            next_step="read the file, then add --allow-code, or name the code on the command line",
        )


def read_source(code: CodeName) -> bytes:
    """Return the content of the file of a name of code.

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
            next_step="use the path of the file; a run folder has a copy of its code in code/",
        ) from error


def _note(code: CodeName, source: bytes) -> Path:
    key = f"{code.place}\0".encode() + hashlib.sha256(source).digest()
    return cache_folder() / "allowed-code" / hashlib.sha256(key).hexdigest()
