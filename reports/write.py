"""Files of a report, written so that a reader never sees half of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from etrm.errors import RunFolderError
from etrm.files import write_atomically


def write(files: Mapping[str, bytes], folder: Path) -> list[Path]:
    """Write files under ``folder``, in their order.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    written = []
    for name, data in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        except OSError as error:
            raise RunFolderError(
                f"the report cannot be written to {path}",
                got=error.strerror or str(error),
                next_step="free the path or mend its permissions, then run `etrm report DIR`",
            ) from error
        written.append(path)
    return written
