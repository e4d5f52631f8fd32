"""Markdown, HTML and figures, rendered from result.json alone.

Importing this package imports nothing else; the functions do when they are called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from etrm.investigation.result import Result

__all__ = ["read_and_render", "render", "summary"]


def render(result: Result, folder: Path, previous: Result | None = None) -> list[Path]:
    """Write the report of a result: ``index.md``, a page for each part, ``figures/*.png``, and ``report.html``.

    The same results give the same bytes (figures: with the same version of matplotlib). Each file is
    whole or absent, the index is written last, and no other file is touched.

    Args:
        result: what the investigation found.
        folder: the investigation's folder, where ``result.json`` and the runs stand; links go there.
        previous: what the run before this one found.

    Returns:
        The files written, the index last.
    """
    from reports.pages.site import files
    from reports.write import write

    return write(files(result, previous), folder)


def read_and_render(folder: Path) -> Result:
    """Render ``folder/result.json`` into ``folder`` and return it.

    The index says what changed since ``result.previous.json``, where that stands beside it.

    Raises:
        RunFolderError: a file is missing or is not of this schema, or the folder cannot be written.
    """
    from etrm.investigation.result import PREVIOUS, Result

    result, earlier = Result.read(folder / "result.json"), folder / PREVIOUS
    render(result, folder, Result.read(earlier) if earlier.exists() else None)
    return result


def summary(result: Result) -> RenderableType:
    """The result for a terminal: root cause, verdicts, next step. Needs no colour to be read."""
    from reports.terminal.summary import terminal

    return terminal(result)
