"""Train a run, evaluate it, and print settings."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etrm.commands.apps import app
from etrm.commands.options import (
    AllowCodeOption,
    ConfigOption,
    InjectOption,
    JsonOption,
    PresetOption,
    SetOption,
)
from etrm.commands.shared import allow_code_of, resolve_config, resolve_settings

if TYPE_CHECKING:
    pass


@app.command()
def train(
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    inject: InjectOption = None,
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/train"),
    resume: Annotated[bool, typer.Option(help="Go on where the run in --out stopped.")] = False,
    allow_code: AllowCodeOption = False,
) -> None:
    """Train a model; Ctrl-C keeps a checkpoint, --resume continues exactly from there."""
    from etrm.checkpoints.run_folder import read_config
    from etrm.rank import rank
    from etrm.training.trainer import train as run_training
    from reports.terminal.console import TrainBar, open_console

    allow_code_of(out if resume else None, allowed=allow_code)
    if resume and not (preset or config or settings or inject):
        chosen = read_config(out)
    else:
        chosen = resolve_config(preset, config, settings, inject)
    console = open_console(stderr=True, quiet=rank() > 0)
    with TrainBar(chosen.train.steps, console) as bar:
        finished = run_training(chosen, out, resume=resume, on_step=bar.update)
    state = "finished" if finished else f"stopped early; go on with: etrm train --resume --out {out}"
    with suppress(OSError):  # a terminal that was closed, which is one way to stop early
        console.print(f"{out}: {state}", highlight=False, soft_wrap=True)
    if not finished:
        raise typer.Exit(130)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    settings: SetOption = None,
    submission: Annotated[
        Path | None,
        typer.Option(
            help="Also write a Kaggle submission file of the whole data set, NAME.json say; NAME.placeholders.json "
            "names the tasks without an answer."
        ),
    ] = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Pass@k of a run on held-out tasks, beside what needs no learning.

    What is asked stands in the run's evaluate section; change it with --set evaluate.subset=..., .source, .weights,
    .augmentations.
    """
    from rich.table import Table

    from etrm.config import settings_of_texts
    from etrm.training.scoring.score_run import score_run
    from reports.terminal.console import open_console
    from reports.terminal.summary import submission_line

    allow_code_of(run, allowed=allow_code, settings=settings)
    scores = score_run(run, settings_of_texts(settings or ()), submission)
    asked = scores.config.evaluate
    title = f"{run}, step {scores.step}, {scores.weights} weights: {asked.source} {asked.subset}, "
    table = Table(title=f"{title}{asked.augmentations} votes per query", title_justify="left")
    for column in ("what", "pass@1", "pass@2", "solved/asked", "95 % interval", "token accuracy", "exact"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, found in {"this run": scores.model, **scores.others}.items():
        first, second = found.pass_at[1], found.pass_at.get(2)
        table.add_row(
            name,
            f"{first.score:.1%}",
            f"{second.score:.1%}" if second else "-",
            f"{first.solved}/{first.asked}",
            f"{first.low:.1%} to {first.high:.1%}",
            f"{found.token_accuracy:.3f}",
            f"{found.exact_accuracy:.3f}",
        )
    console = open_console()
    console.print(table)
    console.print(
        f"{len(scores.model.out_of_region)} queries out of region, counted as unsolved", highlight=False
    )
    if scores.submitted:
        console.print(submission_line(scores.submitted), highlight=False, soft_wrap=True)


@app.command("config")
def show_config(
    run: Annotated[Path | None, typer.Argument(help="A run folder or a checkpoint of one.")] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print every setting: its value, where that comes from, its default, its allowed values, its description.

    In a pipe the output is a TOML file that --config reads: etrm config --preset small > mine.toml
    """
    from reports.terminal.settings_table import print_settings

    print_settings(resolve_settings(run, preset, config, tuple(settings or ())), as_json)
