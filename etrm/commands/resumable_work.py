"""Work that takes long and can be resumed: its budget, its launcher, its progress, and the paths of its report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from etrm.config import Config
    from etrm.investigation.result import Result
    from etrm.investigation.runs.budget import Tier
    from etrm.investigation.runs.launchers import Launcher
    from reports.terminal.progress import Phases


def run_investigation(subject: tuple[Config, str], out: Path, **options: Any) -> Result:
    """Run an investigation, render its report and print its summary."""
    from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses
    from etrm.investigation.run import investigate
    from reports import read_and_render, summary
    from reports.terminal.console import open_console
    from reports.terminal.progress import InvestigationProgress

    chosen, name = subject
    command = "etrm " + shlex.join(sys.argv[1:])
    titles = {id: f"{id} {one.statement.title}" for id, one in all_hypotheses().items()}
    expected = [*options.get("hypotheses", ()), *(["experiments"] if options.get("experiments") else [])]
    view = InvestigationProgress(titles, expected=expected, stops=options.get("until_root_cause", False))
    with resumable_work(view):
        found = investigate(
            chosen,
            out,
            name=name,
            command=command,
            progress=view.update,
            on_verdict=view.decide,
            on_departure=view.depart,
            on_plan=view.plan,
            **options,
        )
        view.finish(found)
    result = read_and_render(out)
    open_console().print(summary(result))
    print_report_paths(out)
    return result


@contextmanager
def resumable_work(view: Phases) -> Iterator[Phases]:
    """Show the progress of work that can be resumed; Ctrl-C ends it with exit code 130."""
    from etrm.errors import Interrupted
    from reports.terminal.console import open_console

    with view:
        try:
            yield view
        except (Interrupted, KeyboardInterrupt):
            view.close()
            open_console(stderr=True).print(f"interrupted; {view.resume}")
            raise typer.Exit(130) from None


def budget_of(name: str, seeds: int | None, pretrain_steps: int | None) -> Tier:
    """Return a tier, with its seeds and pretraining steps replaced by the given ones."""
    from etrm.investigation.runs.budget import find

    tier = find(name)
    if seeds is not None:
        tier = replace(tier, seeds=seeds, short_seeds=seeds)
    return replace(tier, pretrain_steps=pretrain_steps or tier.pretrain_steps)


def make_launcher(name: str, jobs: int, threads: int, settings: list[str] | None) -> Launcher:
    from etrm.investigation.runs.launchers import launcher

    return launcher(name, jobs, settings or (), threads)


def print_report_paths(folder: Path) -> None:
    from reports.terminal.console import open_console

    for name in ("index.md", "report.html"):
        open_console().print(f"report: {folder / name}", soft_wrap=True)
