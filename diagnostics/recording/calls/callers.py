"""The line of the user's code that calls torch or the toolkit."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import torch

LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]))
"""Folders whose frames are not the user's: torch's, and the toolkit's."""


def is_users(file: str) -> bool:
    """Whether a file is neither torch's nor the toolkit's."""
    return not file.startswith((*LIBRARIES, "<")) and "contextlib" not in file


def calling_line() -> tuple[str, int]:
    """File and line of the innermost frame that is neither torch's nor the toolkit's; ("", 0) if there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if is_users(file):
            return file, frame.f_lineno
        frame = frame.f_back
    return "", 0
