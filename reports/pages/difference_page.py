"""Render what changed between two investigations, as markdown and for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports.markdown import count, escape, paragraph, plain, table
from reports.pages.difference import Difference, ResultChange
from reports.pages.sections import join
from reports.text_table import make_table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

HEADERS = ("part", "what", "before", "after")
SAME = "Both investigations found the same."


def difference_page(difference: Difference, before: str, after: str) -> str:
    """Return a page of markdown with a title.

    Args:
        difference: the differences to show.
        before: the name of the earlier investigation, e.g. its folder.
        after: the name of the later investigation.
    """
    names = paragraph(f"Before: {escape(before)}. After: {escape(after)}.")
    return join(["# What changed between two investigations", names, changes(difference)])


def changes(difference: Difference) -> str:
    """Return markdown without a title: tables of what changed, and the costs."""
    parts = [SAME] if difference.same else []
    for title, found in _make_tables(difference):
        rows = [[escape(cell) for cell in _format_cells(change)] for change in found]
        parts.append(f"{title}:\n\n{table(HEADERS, rows)}")
    return "\n\n".join([*parts, *map(paragraph, _format_lines(difference))])


def terminal_difference(difference: Difference) -> RenderableType:
    """Return the differences for a terminal."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(SAME, "bold")] if difference.same else []
    for title, found in _make_tables(difference):
        parts += [Text(f"{title}:", "bold"), _make_terminal_table(found), Text()]
    return Group(*parts, *map(Text, _format_lines(difference)))


def _make_tables(difference: Difference) -> list[tuple[str, Sequence[ResultChange]]]:
    named = (
        ("Results that changed", difference.found),
        ("Evidence that changed by more than its interval or threshold allows", difference.evidence),
        ("Circumstances that differ", difference.circumstances),
    )
    return [(title, found) for title, found in named if found]


def _format_lines(difference: Difference) -> list[str]:
    before, after = difference.cost
    rows = count(difference.within, "row")
    moved = f"Not listed: {rows} of evidence that changed within the interval or threshold, or that decide nothing."
    return [*([moved] if difference.within else []), f"Cost before: {before}; after: {after}."]


def _format_cells(change: ResultChange) -> tuple[str, str, str, str]:
    return change.part, change.what, change.before, change.after


def _make_terminal_table(found: Sequence[ResultChange]) -> Table:
    from rich.text import Text

    drawn = make_table(HEADERS)
    for change in found:
        drawn.add_row(*(Text(plain(cell)) for cell in _format_cells(change)))
    return drawn
