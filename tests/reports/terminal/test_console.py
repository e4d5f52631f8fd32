"""The console prints texts as they are: a path or an id may contain what a library reads as markup or as an emoji."""

from __future__ import annotations

import pytest

from reports.terminal.console import open_console
from reports.terminal.progress import Phases
from reports.text_table import make_table

ODD = "runs/[bold]a[/b]/:bug:[/]"


def test_brackets_and_colons_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = make_table(("folder",), title=f"title {ODD}")
    table.add_row(ODD)
    open_console().print(ODD)
    open_console().print(table)
    open_console(stderr=True).print(f"next: {ODD}", style="dim")
    shown = capsys.readouterr()
    assert (shown.out.count(ODD), shown.err) == (3, f"next: {ODD}\n")


def test_a_progress_bar_shows_them_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with Phases(names={"odd": ODD}) as phases:
        phases.update("odd", 1, 3)
    assert ODD in capsys.readouterr().err
