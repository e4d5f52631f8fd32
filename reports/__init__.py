"""Everything that is shown: reports (markdown, HTML and figures), tables in the terminal, curves of runs.

Importing this package is fast: its functions import what they need when they are called.
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

    The same result gives the same bytes (figures: with the same version of matplotlib). Files are written atomically,
    the index last, and no other file is changed.

    Args:
        result: the result of the investigation.
        folder: the folder of the investigation, with ``result.json`` and the runs, to which links lead.
        previous: the result of the previous investigation in the same folder.

    Returns:
        The files written, the index last.
    """
    from reports.pages.site import files
    from reports.write import write

    return write(files(result, previous), folder)


def read_and_render(folder: Path | str) -> Result:
    """Render ``folder/result.json`` into ``folder`` and return it.

    If the folder also contains ``result.previous.json``, the index shows what changed since then.

    Raises:
        RunFolderError: a file is missing or does not have this schema, or the folder cannot be written.
    """
    from etrm.investigation.result import PREVIOUS, Result

    folder = Path(folder)
    result, earlier = Result.read(folder / "result.json"), folder / PREVIOUS
    render(result, folder, Result.read(earlier) if earlier.exists() else None)
    return result


def summary(result: Result) -> RenderableType:
    """Return the result for a terminal: root cause, verdicts, next step. It is readable without colours."""
    from reports.terminal.summary import terminal

    return terminal(result)
