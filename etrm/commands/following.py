"""Follow runs: watch, list, compare and plot them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from etrm.commands.apps import FOLLOW, app
from etrm.commands.chosen_config import allow_code_of
from etrm.commands.completion import complete_column, complete_run
from etrm.commands.options import (
    AllowCodeOption,
    RunArgument,
    RunOrCheckpoint,
    RunsArgument,
    SetOption,
    check_figure,
    check_folder,
    refuse_without_effect,
)


@app.command(rich_help_panel=FOLLOW)
def watch(
    run: Annotated[
        Path,
        typer.Argument(
            help="A run folder. If it holds no run yet, the command waits for one.",
            autocompletion=complete_run,
        ),
    ],
    once: Annotated[
        bool, typer.Option(help="Print one frame and exit. In a pipe this is the default.")
    ] = False,
) -> None:
    """Follow a run in the terminal until it ends: curves, halting, coverage, speed, findings."""
    from reports.runs.watch import watch as follow
    from reports.terminal.console import open_console

    try:
        follow(run, open_console(), once=once)
    except KeyboardInterrupt:  # Ctrl-C is how a user stops watching
        raise typer.Exit(0) from None


@app.command(rich_help_panel=FOLLOW)
def runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders that contain runs. Default: the folder runs.")
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            help="Column to sort by, e.g. accuracy_all or started. With - before it, largest first.",
            autocompletion=complete_column,
        ),
    ] = "folder",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array instead of a table.")] = False,
) -> None:
    """List all runs with their state and their last and best results."""
    from reports.runs import listing
    from reports.terminal.console import open_console

    found = listing.find_folders(folders or [Path("runs")])
    entries = listing.list_runs(found.runs, sort)
    if as_json:
        typer.echo(listing.as_json(entries))
    else:
        console = open_console(pipe_width=180)
        console.print(listing.as_table(entries, console.width))
    for note in (
        listing.describe_investigations(found.investigations),
        listing.describe_foreign(found.foreign),
    ):
        if note:
            open_console(stderr=True).print(note, style="dim")


@app.command(rich_help_panel=FOLLOW)
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Two or more run folders. Differences are relative to the first.",
            autocompletion=complete_run,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for PNG figures of the runs' curves. Default: no figures.", callback=check_folder
        ),
    ] = None,
) -> None:
    """Compare runs: settings that differ, results, speed, and reasons why they may not be comparable."""
    from reports.plots.run_plot import plot_comparison
    from reports.runs.compare import as_tables
    from reports.runs.compare import compare as read
    from reports.terminal.console import open_console

    found = read(runs)
    console = open_console(pipe_width=180)
    console.print(as_tables(found, console.width))
    for file in plot_comparison(found, out) if out else ():
        console.print(f"figure: {file}", soft_wrap=True)


@app.command(rich_help_panel=FOLLOW)
def predictions(
    context: typer.Context,
    run: RunOrCheckpoint,
    settings: SetOption = None,
    tasks: Annotated[int, typer.Option(min=1, help="Number of tasks to draw, the first by id.")] = 6,
    task: Annotated[
        list[str] | None, typer.Option(help="Id of a task to draw. Repeat the option for several tasks.")
    ] = None,
    demos: Annotated[bool, typer.Option(help="Also draw the demonstrations of each task.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="PNG file to write. Default: draw in the terminal.", callback=check_figure),
    ] = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Draw the answers of a run: input, target, and answer with its wrong cells marked.

    The answers are those that `etrm evaluate` scores. The run's evaluate section chooses the tasks; change it with
    --set evaluate.subset=..., .source, .max_tasks, .weights, .augmentations.
    """
    from etrm.config import parse_settings
    from reports.plots.prediction_drawing import as_png, caption, in_terminal
    from reports.runs.predictions import read_predictions as answers_of
    from reports.terminal.console import open_console
    from reports.write import write_file

    if task:
        refuse_without_effect(context, ("tasks",), next_to="--task")
    allow_code_of(run, allowed=allow_code, settings=settings)
    found, answers = answers_of(run, parse_settings(settings or ()), tasks=tasks, only=task or ())
    console = open_console()
    console.print(in_terminal(answers, demos=demos))
    title = caption(run, found, answers)
    console.print(title, soft_wrap=True)
    if out:
        write_file(out, as_png(title, answers, demos=demos))
        console.print(f"figure: {out}", soft_wrap=True)


@app.command(rich_help_panel=FOLLOW)
def plot(
    runs: RunsArgument,
    out: Annotated[Path, typer.Option(help="PNG file to write.", callback=check_figure)],
    keys: Annotated[
        str, typer.Option(help="Quantities to plot: keys of metrics.jsonl, separated by commas.")
    ] = "accuracy_all",
    title: Annotated[str, typer.Option(help="Title of the figure.")] = "Training",
    line: Annotated[
        str | None, typer.Option(metavar="LABEL=VALUE", help="Horizontal reference line, e.g. gate=0.95.")
    ] = None,
) -> None:
    """Plot logged quantities of runs against the step."""
    from etrm.errors import ConfigError
    from reports.plots.run_plot import plot_runs
    from reports.terminal.console import open_console

    reference = None
    if line is not None:
        label, _, number = line.rpartition("=")
        try:
            if not label.strip():
                raise ValueError("no label")
            reference = (label, float(number))
        except ValueError as error:
            raise ConfigError(
                "plot.unreadable-line",
                f"cannot read --line {line!r}",
                allowed="LABEL=VALUE, e.g. gate=0.95",
                next_step="etrm plot --help",
            ) from error
    plot_runs(runs, [key.strip() for key in keys.split(",")], out, title, reference)
    open_console().print(f"figure: {out}", soft_wrap=True)


@app.command(rich_help_panel=FOLLOW)
def tensorboard(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the event files. Default: RUN/tensorboard.", callback=check_folder),
    ] = None,
    once: Annotated[bool, typer.Option(help="Write what there is and exit.")] = False,
) -> None:
    """Write the metrics of a run as TensorBoard events until the run ends."""
    from reports.runs.tensorboard import export
    from reports.terminal.console import open_console

    target = out or run / "tensorboard"
    console = open_console()
    console.print(f"tensorboard --logdir {shlex.quote(str(target))}", soft_wrap=True)
    try:
        written = export(run, target, once=once)
    except KeyboardInterrupt:  # Ctrl-C is how a user stops following
        raise typer.Exit(0) from None
    console.print(f"{written} steps written")
