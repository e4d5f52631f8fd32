"""Analyse a trained run: its ACT steps, votes, context and noise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etrm.commands.apps import FOLLOW, app
from etrm.commands.chosen_config import allow_code_of
from etrm.commands.options import AllowCodeOption, RunOrCheckpoint, SetOption, check_folder


@app.command(rich_help_panel=FOLLOW)
def analyse(
    run: RunOrCheckpoint,
    settings: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: RUN/analysis.")] = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Measure each ACT step, the votes, ablations of context and identity, and noise in the recursion.

    The tasks are those of the run's evaluate section; of a TRM, tasks that it was trained on.
    """
    from etrm.checkpoints.saved_steps import split_checkpoint
    from etrm.config import parse_settings
    from reports.pages.analysis_page import format_count
    from reports.pages.analysis_report import write_analysis_report
    from reports.terminal.console import open_console
    from reports.terminal.progress import Phases

    allow_code_of(run, allowed=allow_code, settings=settings)
    folder, console = out or split_checkpoint(run)[0] / "analysis", open_console()
    check_folder(folder)
    changes = parse_settings(settings or ())
    with Phases() as phases:
        found = write_analysis_report(run, folder, changes, lambda part: phases.update(part, 0, 1))
    for one in found.readouts:
        console.print(f"read at {one.code}: {', '.join(format_count(one.right))}")
    for one in found.ablations:
        console.print(f"{one.code}: {', '.join(format_count(one.right))}")
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
