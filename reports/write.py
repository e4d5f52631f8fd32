"""Write the files of a report atomically."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from etrm.atomic_files import write_atomically
from etrm.errors import ConfigError, RunFolderError


def write(files: Mapping[str, bytes], folder: Path) -> list[Path]:
    """Write files into ``folder``, in their order.

    Raises:
        RunFolderError: a file cannot be written.
    """
    for name, data in files.items():
        write_file(folder / name, data)
    return [folder / name for name in files]


def check_png_name(path: Path) -> None:
    """Check that the name of a figure is that of a PNG file.

    Raises:
        ConfigError: it is not.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(
            "plot.not-png",
            "the figure is a PNG file",
            got=path.name,
            allowed="a name that ends with .png",
            next_step=f"name it {shlex.quote(f'{path.stem}.png')}",
        )


def write_file(path: Path, data: bytes) -> None:
    """Write one file, and create its folders if they are missing.

    Raises:
        RunFolderError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise RunFolderError(
            "report.not-writable",
            f"{path} cannot be written",
            got=error.strerror or str(error),
            next_step="fix the permissions of the path or use another one, then run the command again",
        ) from error
