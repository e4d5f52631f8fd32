"""Train a model, evaluate a run, and print settings."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from etrm.commands.apps import TRAIN, app
from etrm.commands.chosen_config import allow_code_of, resolve_config, resolve_settings
from etrm.commands.completion import choose_from, complete_run
from etrm.commands.options import (
    AllowCodeOption,
    ConfigOption,
    InjectOption,
    JsonOption,
    PresetOption,
    RunOrCheckpoint,
    SetOption,
    check_file,
)

if TYPE_CHECKING:
    from etrm.config import Config


@app.command(rich_help_panel=TRAIN)
def train(
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    inject: InjectOption = None,
    out: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/train"),
    resume: Annotated[bool, typer.Option(help="Resume the run in --out where it stopped.")] = False,
    find_batch_size: Annotated[
        bool,
        typer.Option(
            "--find-batch-size",
            help="Print the largest batch that fits into the memory instead of training; nothing is written.",
        ),
    ] = False,
    allow_code: AllowCodeOption = False,
) -> None:
    """Train a model. Ctrl-C saves a checkpoint; --resume continues exactly from there."""
    from etrm.checkpoints.run_folder import read_config
    from etrm.config.idle_settings import list_idle_settings
    from etrm.rank import read_rank
    from etrm.training.trainer import Trainer
    from etrm.training.trainer import train as run_training
    from reports.runs.run_summary import summarise_run
    from reports.terminal.console import open_console
    from reports.terminal.data_tables import selection_lines, stage_lines
    from reports.terminal.progress import TrainProgress

    allow_code_of(out if resume else None, allowed=allow_code)
    if resume and not (preset or config or settings or inject):
        chosen = read_config(out)
    else:  # other settings than the run's are refused later, where only those that the command line changes are named
        began = out if resume and not (preset or config) and (out / "config.json").exists() else None
        chosen = resolve_config(preset, config, settings, inject, run=began)
    if find_batch_size:
        _print_batch_sizes(chosen)
        return
    console = open_console(stderr=True, quiet=read_rank() > 0)
    for name, reason in list_idle_settings(chosen).items():
        console.print(f"note: {name} has no effect, because {reason}", soft_wrap=True, markup=False)

    parameters = 0

    def show_stages(trainer: Trainer) -> None:
        nonlocal parameters
        parameters = sum(weight.numel() for weight in trainer.model.parameters())
        data = trainer.config.data
        for line in (
            *selection_lines(trainer.tasks, data.max_side, data.max_tasks, "data"),
            *stage_lines(data.curriculum, trainer.episodes.stage_tasks),
        ):
            console.print(line, soft_wrap=True, markup=False)

    resume_with = f"resume with: etrm train --resume --out {shlex.quote(str(out))}"
    try:
        with TrainProgress(chosen.train.steps, console) as bar:
            finished = run_training(chosen, out, resume=resume, on_start=show_stages, on_step=bar.update)
    except KeyboardInterrupt:  # a second Ctrl-C
        stopped = f"{out}: stopped at once, without the steps since the last checkpoint; {resume_with}"
        console.print(stopped, soft_wrap=True)
        raise typer.Exit(130) from None
    state = "finished" if finished else f"stopped early; {resume_with}"
    with suppress(OSError):  # the run may have stopped because its terminal was closed
        console.print(f"{out}: {state}", soft_wrap=True)
        for line in summarise_run(out, parameters) if finished and read_rank() == 0 else ():
            console.print(line, soft_wrap=True)
    if not finished:
        raise typer.Exit(130)


def _print_batch_sizes(config: Config) -> None:
    from etrm.errors import ConfigError
    from etrm.rank import is_launched
    from etrm.training.batch_size import find_batch_size
    from reports.terminal.batch_table import batch_line, batch_table
    from reports.terminal.console import open_console

    if is_launched():
        raise ConfigError(
            "cli.batch-search-launched",
            "--find-batch-size does not run under torchrun",
            allowed="one process, which finds the rows of one process",
            next_step="etrm train --find-batch-size, then train.batch_size = its rows times the number of processes",
        )
    with open_console(stderr=True).status("first steps") as status:
        found = find_batch_size(config, on_try=lambda rows: status.update(f"steps of {rows} rows"))
    console = open_console()
    console.print(batch_table(found))
    console.print(batch_line(found), soft_wrap=True)


MORE_SCORES = "Other scores"


@app.command(rich_help_panel=TRAIN)
def evaluate(
    run: RunOrCheckpoint,
    settings: SetOption = None,
    submission: Annotated[
        Path | None,
        typer.Option(
            help="Kaggle submission file to write, e.g. NAME.json, with every task of the data set. Unknown outputs "
            "are not scored. NAME.placeholders.json lists the tasks without an answer.",
            callback=check_file,
        ),
    ] = None,
    misleading: Annotated[
        bool,
        typer.Option(
            help="Also print scores that overstate the run, for comparison with reports that used them: "
            "demonstration pairs instead of tasks, the true output size given, noise.",
            show_default=False,
            rich_help_panel=MORE_SCORES,
        ),
    ] = False,
    search: Annotated[
        bool,
        typer.Option(
            help="Also search the context of each task by its demonstrations' gradient, with frozen weights "
            "(settings evaluate.search.*).",
            show_default=False,
            rich_help_panel=MORE_SCORES,
        ),
    ] = False,
    adapt: Annotated[
        Literal["weights", "encoder", "context"] | None,
        typer.Option(
            metavar="PART",
            help="Also train this part (weights, encoder or context) on the augmented demonstrations of each task, "
            "and restore it afterwards (settings evaluate.adapt.*).",
            autocompletion=choose_from("weights", "encoder", "context"),
            rich_help_panel=MORE_SCORES,
        ),
    ] = None,
    as_json: JsonOption = False,
    allow_code: AllowCodeOption = False,
) -> None:
    """Score a run on held-out tasks (pass@k), next to baselines that need no learning.

    The run's evaluate section chooses the tasks; change it with --set evaluate.subset=..., .source, .weights,
    .augmentations.
    """
    from etrm.config import parse_settings
    from etrm.training.scoring.answered_run import answer_run, find_unknown, submit_answers
    from etrm.training.scoring.score_run import score_run, submit
    from reports.terminal.console import open_console
    from reports.terminal.evaluation import print_scores, scores_record, submission_line
    from reports.terminal.progress import Phases

    allow_code_of(run, allowed=allow_code, settings=settings)
    changes = parse_settings(settings or ())
    console = open_console()
    if submission is not None and not misleading and (unscored := find_unknown(run, changes)):
        with Phases("") as phases:
            answered = answer_run(run, changes, search=search, adapted=adapt, progress=phases.update)
        if answered.interrupted:
            open_console(stderr=True).print(f"interrupted; {submission} was not written")
            raise typer.Exit(130)
        notes = open_console(stderr=as_json)
        if as_json:
            record = {"run": str(run), "step": answered.step, "report": None, "unscored": unscored}
            console.print(json.dumps(record, indent=1), soft_wrap=True)
        notes.print(f"no scores: the test outputs of {len(unscored)} tasks are unknown")
        notes.print(submission_line(submit_answers(answered, submission)), soft_wrap=True)
        return
    with Phases("") as phases:
        scores = score_run(
            run, changes, misleading=misleading, search=search, adapted=adapt, progress=phases.update
        )
    if as_json:
        console.print(json.dumps(scores_record(str(run), scores), indent=1, allow_nan=False), soft_wrap=True)
    else:
        print_scores(console, run, scores)
    if submission is not None and not scores.interrupted:
        notes = open_console(stderr=as_json)
        notes.print(submission_line(submit(scores, submission)), soft_wrap=True)
    if scores.interrupted:
        unwritten = "" if submission is None else f"; {submission} was not written"
        open_console(stderr=True).print(
            f"interrupted; scores after fitting are those of the tasks that were finished{unwritten}",
            soft_wrap=True,
        )
        raise typer.Exit(130)


@app.command("config", rich_help_panel=TRAIN)
def show_config(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder or a checkpoint in one.", autocompletion=complete_run)
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print every setting with its value, the origin of the value, its default, allowed values and description.

    In a pipe the output is a TOML file for --config: etrm config --preset small > mine.toml
    """
    from reports.terminal.settings_table import print_settings

    print_settings(resolve_settings(run, preset, config, tuple(settings or ())), as_json)
