"""Follow runs: watch, list, compare and draw them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etrm.commands.apps import app
from etrm.commands.options import AllowCodeOption, SetOption
from etrm.commands.shared import allow_code_of

if TYPE_CHECKING:
    pass


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(help="A run folder; one that holds no run yet is waited for.")],
    once: Annotated[bool, typer.Option(help="One frame, as in a pipe.")] = False,
) -> None:
    """Follow a run in the terminal until it ends: curves, halting, coverage, speed, findings."""
    from reports.runs.watch import watch as follow
    from reports.terminal.console import open_console

    try:
        follow(run, open_console(), once=once)
    except KeyboardInterrupt:  # the way to stop looking
        raise typer.Exit(0) from None


@app.command()
def runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders that hold runs; runs by default.")
    ] = None,
    sort: Annotated[
        str, typer.Option(help="A column, e.g. accuracy_all, started; - before it: largest first.")
    ] = "folder",
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON array.")] = False,
) -> None:
    """List every run with its state, its last and its best numbers."""
    from reports.runs import listing
    from reports.terminal.console import open_console

    entries = listing.list_runs(folders or [Path("runs")], sort)
    if as_json:
        typer.echo(listing.as_json(entries))
    else:
        open_console(pipe_width=180).print(listing.as_table(entries))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; differences are from the first.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write overlaid curves to, as PNG.")] = None,
) -> None:
    """Put runs side by side: settings that differ, numbers, speed, and whether they may be compared."""
    from reports.plots.run_plot import plot_comparison
    from reports.runs.compare import as_tables
    from reports.runs.compare import compare as read
    from reports.terminal.console import open_console

    found = read(runs)
    console = open_console(pipe_width=180)
    console.print(as_tables(found))
    for file in plot_comparison(found, out) if out else ():
        console.print(f"figure: {file}", highlight=False, soft_wrap=True)


@app.command()
def predictions(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    settings: SetOption = None,
    tasks: Annotated[int, typer.Option(min=1, help="How many tasks, the first by id.")] = 6,
    task: Annotated[list[str] | None, typer.Option(help="This task; may be given again.")] = None,
    demos: Annotated[bool, typer.Option(help="Draw the tasks' demonstrations too.")] = False,
    out: Annotated[Path | None, typer.Option(help="The PNG to write.")] = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Draw what a run answers, as `etrm evaluate` scores it: input, target, answer with its wrong cells marked.

    What is asked stands in the run's evaluate section; change it with --set evaluate.subset=..., .source,
    .max_tasks, .weights, .augmentations.
    """
    from etrm.config import settings_of_texts
    from reports.plots.prediction_drawing import as_png, caption, in_terminal
    from reports.runs.predictions import predictions as answers_of
    from reports.terminal.console import open_console
    from reports.write import write_file

    allow_code_of(run, allowed=allow_code, settings=settings)
    found, answers = answers_of(run, settings_of_texts(settings or ()), tasks=tasks, only=task or ())
    console = open_console()
    console.print(in_terminal(answers, demos=demos))
    title = caption(run, found, answers)
    console.print(title, highlight=False, soft_wrap=True)
    if out:
        write_file(out, as_png(title, answers, demos=demos))
        console.print(f"figure: {out}", highlight=False, soft_wrap=True)


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")],
    keys: Annotated[str, typer.Option(help="Quantities of metrics.jsonl.")] = "accuracy_all",
    title: Annotated[str, typer.Option(help="Of the figure.")] = "Training",
    line: Annotated[str | None, typer.Option(metavar="LABEL=VALUE", help="A reference line.")] = None,
) -> None:
    """Draw logged quantities of runs over their steps, every run visible."""
    from etrm.errors import ConfigError
    from reports.plots.run_plot import plot_runs
    from reports.terminal.console import open_console

    reference = None
    if line is not None:
        label, _, number = line.rpartition("=")
        try:
            reference = (label, float(number))
        except ValueError as error:
            raise ConfigError(
                "plot.unreadable-line", f"cannot read --line {line!r}", allowed="LABEL=VALUE, e.g. gate=0.95"
            ) from error
    plot_runs(runs, [key.strip() for key in keys.split(",")], out, title, reference)
    open_console().print(f"figure: {out}", highlight=False, soft_wrap=True)


@app.command()
def tensorboard(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the event files; RUN/tensorboard by default.")
    ] = None,
) -> None:
    """Write a run's metrics as TensorBoard events, as they come, until the run ends."""
    from reports.runs.tensorboard import export
    from reports.terminal.console import open_console

    target = out or run / "tensorboard"
    console = open_console()
    console.print(f"tensorboard --logdir {target}", highlight=False, soft_wrap=True)
    try:
        written = export(run, target)
    except KeyboardInterrupt:  # the way to stop following
        raise typer.Exit(0) from None
    console.print(f"{written} steps written", highlight=False)
