"""Look into the symbolic solver: its templates, and the formulas behind its answers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from etrm.commands.apps import symbolic_app
from etrm.commands.chosen_config import allow_code_of, resolve_config
from etrm.commands.completion import complete_run
from etrm.commands.options import (
    AllowCodeOption,
    ConfigOption,
    JobsOption,
    PresetOption,
    SetOption,
    check_choice,
    check_figure,
    check_folder,
)
from etrm.commands.resumable_work import print_report_paths


@symbolic_app.command()
def templates(
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    family: Annotated[str | None, typer.Option(help="Family whose formulas to print, one per line.")] = None,
) -> None:
    """Count the formulas of each family of a library: of the preset symbolic, unless the options name another."""
    from etrm.symbolic import Library
    from etrm.symbolic.solver import SymbolicCore
    from reports.terminal.console import open_console
    from reports.terminal.formula_tables import library_table

    chosen = resolve_config(preset or (None if config else "symbolic"), config, settings, None).model.symbolic
    library = Library.of(chosen)
    if family is None:
        open_console().print(library_table(library, SymbolicCore(chosen).templates.count))
        return
    console = open_console()
    contents = library.families[check_choice("--family", family, *library.families)]
    for formula in (*contents.rules, *contents.conditions):
        console.print(str(formula), soft_wrap=True)


@symbolic_app.command()
def explain(
    run: Annotated[
        Path, typer.Argument(help="A run folder of the symbolic solver.", autocompletion=complete_run)
    ],
    task: Annotated[str, typer.Argument(help="Id of a held-out task or of a training task.")],
    demos: Annotated[bool, typer.Option(help="Also draw the demonstrations in the terminal.")] = False,
    png: Annotated[
        Path | None,
        typer.Option(
            help="PNG file to write, with the demonstrations and the guard as a grid.", callback=check_figure
        ),
    ] = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Show the formula behind each answer to a task, its fit to the demonstrations, and the runner-up."""
    from etrm.training.scoring.explain_run import explain_run
    from reports.plots.explanation_drawing import draw_png
    from reports.terminal.console import open_console
    from reports.terminal.formula_tables import draw_explanation
    from reports.write import write_file

    allow_code_of(run, allowed=allow_code)
    explained = explain_run(run, task)
    open_console().print(draw_explanation(explained, demos=demos))
    if png is not None:
        write_file(png, draw_png(explained))


@symbolic_app.command()
def story(
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each stage.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every run.")] = 0,
    jobs: JobsOption = 2,
    out: Annotated[Path, typer.Option(help="Folder for runs and page.", callback=check_folder)] = Path(
        "runs/story"
    ),
) -> None:
    """Rebuild the original solver with its faults, and repair, train and investigate it step by step."""
    from etrm.commands.resumable_work import make_launcher, resumable_work
    from etrm.investigation.folder_claim import hold_folder
    from etrm.investigation.original_solver import tell
    from reports.pages.original_solver_page import LOSS, PAGE, draw_losses, make_page
    from reports.terminal.console import print_page
    from reports.terminal.progress import Phases
    from reports.write import write

    command = f"etrm symbolic story --steps {steps} --seed {seed} --out {shlex.quote(str(out))}"
    with hold_folder(out), resumable_work(Phases()) as phases:
        launcher = make_launcher("processes", jobs, 1, None)
        told = tell(out, launcher, command=command, progress=phases.update, steps=steps, seed=seed)
    text = make_page(told)
    write({PAGE: text.encode(), LOSS: draw_losses(told)}, out)
    print_page(text)


@symbolic_app.command()
def report(
    run: Annotated[
        Path, typer.Argument(help="A finished run of the symbolic solver.", autocompletion=complete_run)
    ],
    settings: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: RUN/formulas.")] = None,
    unsolved: Annotated[
        int, typer.Option(min=0, help="Number of unsolved tasks to show: those whose formula fits best.")
    ] = 5,
    allow_code: AllowCodeOption = False,
) -> None:
    """Write a page of the solved held-out tasks, with the formula, its rivals and a picture of each.

    The run's evaluate section chooses the tasks; change it with --set evaluate.subset=..., .source, .max_tasks. Ctrl-C
    writes the page with what is known.
    """
    from etrm.config import parse_settings
    from reports.pages.formula_report import write_formula_report
    from reports.terminal.console import open_console
    from reports.terminal.formula_tables import tasks_table
    from reports.terminal.progress import Phases

    allow_code_of(run, allowed=allow_code, settings=settings)
    folder = out or run / "formulas"
    check_folder(folder)
    with Phases("tasks") as phases:
        found, complete = write_formula_report(
            run, folder, parse_settings(settings or ()), unsolved=unsolved, progress=phases.update
        )
    console = open_console()
    console.print(tasks_table(found))
    print_report_paths(folder)
    if not complete:
        raise typer.Exit(130)
