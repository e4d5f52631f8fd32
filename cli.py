"""The command line. Commands import what they need, so that `etrm --help` answers at once."""

from __future__ import annotations

import errno
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from etrm.errors import EtrmError
from etrm.processes import reports_error

if TYPE_CHECKING:
    from etrm.config import Config, Resolved
    from etrm.investigation.experiments.registry import Experiment
    from etrm.investigation.result import Result
    from etrm.investigation.runs.budget import Tier
    from etrm.investigation.runs.launchers import Launcher
    from reports.terminal.console import Phases

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train TRM and ETRM on ARC, and find out why a recursive model does not learn.",
)
data = typer.Typer(no_args_is_help=True, help="Look at tasks and check them.")
app.add_typer(data, name="data")
checkpoint = typer.Typer(no_args_is_help=True, help="Look into checkpoints, compare, import and export them.")
app.add_typer(checkpoint, name="checkpoint")

PresetOption = Annotated[
    str | None, typer.Option(help="A preset of the package: smoke, small, rules or overfit.")
]
ConfigOption = Annotated[
    Path | None, typer.Option(help='A TOML file; preset = "NAME" in it extends that preset.')
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. train.lr=1e-3.")
]
InjectOption = Annotated[
    list[str] | None, typer.Option("--inject", metavar="FAULT", help="See `etrm faults`.")
]
SourceOption = Annotated[
    str, typer.Option(help="arc-agi-1, arc-agi-2, rules, a folder, or a Kaggle challenges file.")
]
SubsetOption = Annotated[str, typer.Option(help="training or evaluation.")]
WeightsOption = Annotated[str, typer.Option(help="ema or raw: a checkpoint of ours holds both.")]
TierOption = Annotated[
    str, typer.Option(help="screening (3 seeds), standard (5 seeds) or full (5 seeds, long runs).")
]
SeedsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Seeds per arm in place of the tier's; below five it is a screening."),
]
PretrainOption = Annotated[
    int | None, typer.Option(min=1, help="Steps of the TRM decoder in place of the tier's.")
]
JobsOption = Annotated[int, typer.Option(min=1, help="Training runs at a time.")]
ThreadsOption = Annotated[
    int, typer.Option(min=1, help="CPU threads of each run; its numbers depend on them, to rounding.")
]
LauncherOption = Annotated[
    str,
    typer.Option(
        help="Where training runs go: processes, or local or slurm through submitit (extra: cluster)."
    ),
]
LauncherSetOption = Annotated[
    list[str] | None,
    typer.Option("--launcher-set", metavar="KEY=VALUE", help="For submitit, e.g. slurm_partition=gpu."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For machines.")]
CheckpointArgument = Annotated[Path, typer.Argument(help="A run folder, a checkpoint folder, or a file.")]
SideOption = Annotated[int, typer.Option(min=1, max=30, help="Keep tasks whose grids all fit this side.")]


_REFUSED_BY_THE_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""A full or unwritable disk is no bug of ours, wherever it is met."""


def main() -> NoReturn:
    """Run the command line; what a user can cause ends with exit code 2 and no traceback."""
    try:
        code = app(standalone_mode=False)
    except EtrmError as error:
        if reports_error():
            _report(error)
        sys.exit(2)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except typer.Abort:
        sys.exit(130)
    except OSError as error:
        if error.errno not in _REFUSED_BY_THE_SYSTEM:
            raise
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        _report(EtrmError("system.refused", "the system refused to continue", got=what))
        sys.exit(2)
    except Exception as error:
        usage = _usage_error(error)
        if usage is None:
            raise
        sys.exit(usage)
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: EtrmError) -> None:
    """Print an error as a user meets it: the message, and its code in an unobtrusive last line."""
    from reports.terminal.console import open_console

    show = partial(open_console(stderr=True).print, markup=False, highlight=False, soft_wrap=True)
    show(f"error: {error}", style="red")
    show(f"  code:    {', '.join(dict.fromkeys(error.codes))}", style="dim")


def _usage_error(error: Exception) -> int | None:
    """Show a wrong option or argument as click does; anything else is a bug of ours and keeps its traceback."""
    show = getattr(error, "show", None)
    if show is None:
        return None
    show()
    return int(getattr(error, "exit_code", 2))


@app.command()
def investigate(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder or a checkpoint of one: its config is investigated.")
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    inject: InjectOption = None,
    hypotheses: Annotated[str, typer.Option(help="Which to decide, e.g. H1,H2.")] = "all",
    until_root_cause: Annotated[bool, typer.Option(help="Stop at the first proven root cause.")] = False,
    tier: TierOption = "screening",
    seeds: SeedsOption = None,
    jobs: JobsOption = 2,
    threads: ThreadsOption = 1,
    launcher: LauncherOption = "processes",
    launcher_set: LauncherSetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the investigation.")] = Path("runs/investigation"),
    experiments: Annotated[bool, typer.Option(help="Also run the frozen-decoder experiment.")] = True,
    pretrain_steps: PretrainOption = None,
    fail_on: Annotated[
        str | None, typer.Option(help="'validated' gives exit code 1 where a fault is found.")
    ] = None,
) -> None:
    """Find out why a subject does not learn; writes result.json and a report.

    Exit code 0 done, 1 with --fail-on validated where a hypothesis is VALIDATED, 2 bad input, 3 an ERROR verdict,
    130 interrupted (the same command goes on).
    """
    from etrm.errors import ConfigError
    from etrm.investigation.experiments.frozen_decoder import run as frozen
    from etrm.investigation.result import Verdict
    from etrm.investigation.run import chosen

    if fail_on not in (None, "validated"):
        raise ConfigError("cli.unknown-fail-on", f"unknown --fail-on {fail_on!r}", allowed="validated")
    result = _decide(
        _subject(run, preset, config, settings, inject),
        out,
        launcher=_launcher(launcher, jobs, threads, launcher_set),
        tier=_tier(tier, seeds, pretrain_steps),
        hypotheses=chosen(hypotheses),
        until_root_cause=until_root_cause,
        experiments=(frozen,) if experiments else (),
    )
    verdicts = [hypothesis.verdict for hypothesis in result.hypotheses.values()]
    if Verdict.ERROR in verdicts:
        raise typer.Exit(3)
    if fail_on and Verdict.VALIDATED in verdicts:
        raise typer.Exit(1)


@app.command("frozen-decoder")
def frozen_decoder(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder or a checkpoint of one: its config is the subject.")
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    inject: InjectOption = None,
    as_original: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MISTAKE",
            help="Make a mistake of the original again, in place of the experiment, and see which check catches it: "
            "norms, optimizer, cycles, tasks, statistics or all.",
        ),
    ] = None,
    tier: TierOption = "screening",
    seeds: SeedsOption = None,
    jobs: JobsOption = 2,
    threads: ThreadsOption = 1,
    launcher: LauncherOption = "processes",
    launcher_set: LauncherSetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the experiment.")] = Path("runs/frozen-decoder"),
    pretrain_steps: PretrainOption = None,
) -> None:
    """Keep a pretrained decoder fixed and train the encoder: does it learn (A), is it stuck (B), or useless (C)?"""
    from etrm.investigation.experiments import replayed_mistakes as original
    from etrm.investigation.experiments.frozen_decoder import run as frozen

    mistakes = original.chosen(as_original or ())
    _decide(
        _subject(run, preset, config, settings, inject),
        out,
        launcher=_launcher(launcher, jobs, threads, launcher_set),
        tier=_tier(tier, seeds, pretrain_steps),
        hypotheses=(),
        experiments=((lambda found, _: original.run(found, mistakes)) if mistakes else frozen,),
    )


@app.command()
def train(
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    inject: InjectOption = None,
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/train"),
    resume: Annotated[bool, typer.Option(help="Go on where the run in --out stopped.")] = False,
) -> None:
    """Train a model; Ctrl-C keeps a checkpoint, --resume goes on exactly from there."""
    from etrm.checkpoints.run_folder import read_config
    from etrm.processes import rank
    from etrm.training.trainer import train as run_training
    from reports.terminal.console import TrainBar, open_console

    if resume and not (preset or config or settings or inject):
        chosen = read_config(out)
    else:
        chosen = _config(preset, config, settings, inject)
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
) -> None:
    """Pass@k of a run on held-out tasks, beside what needs no learning.

    What is asked stands in the run's evaluate section; change it with --set evaluate.subset=..., .source, .weights,
    .augmentations.
    """
    from rich.table import Table

    from etrm.training.scoring import score_run
    from reports.terminal.console import open_console
    from reports.terminal.summary import submission_line

    scores = score_run(run, tuple(settings or ()), submission)
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


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Folder with a result.json.")]) -> None:
    """Render the report of an investigation again, markdown and HTML, from its result.json alone."""
    from reports import read_and_render, summary
    from reports.terminal.console import open_console

    result = read_and_render(folder)
    open_console().print(summary(result))
    _say_where(folder)


def _say_where(folder: Path) -> None:
    from reports.terminal.console import open_console

    for name in ("index.md", "report.html"):
        open_console().print(f"report: {folder / name}", highlight=False, soft_wrap=True)


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="Folder of the earlier investigation.")],
    after: Annotated[Path, typer.Argument(help="Folder of the later one.")],
    out: Annotated[Path | None, typer.Option(help="Also write it to this file, as markdown.")] = None,
    any_subject: Annotated[
        bool, typer.Option(help="Compare different subjects too, e.g. before and after a fault is mended.")
    ] = False,
    exit_code: Annotated[bool, typer.Option(help="Exit code 1 where they did not find the same.")] = False,
) -> None:
    """Say what changed between two investigations of a subject: verdicts, evidence, settings, code, cost."""
    from etrm.investigation.result import Result
    from reports.pages.difference import compare as compare_results
    from reports.pages.difference_page import difference_page, terminal_difference
    from reports.terminal.console import open_console
    from reports.write import write_file

    found = compare_results(
        *(Result.read(folder / "result.json") for folder in (before, after)), any_subject=any_subject
    )
    open_console().print(terminal_difference(found))
    if out:
        write_file(out, difference_page(found, str(before), str(after)).encode())
    if exit_code and not found.same:
        raise typer.Exit(1)


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
    from reports.runs.compare import as_tables, draw
    from reports.runs.compare import compare as read
    from reports.terminal.console import open_console

    found = read(runs)
    console = open_console(pipe_width=180)
    console.print(as_tables(found))
    for file in draw(found, out) if out else ():
        console.print(f"figure: {file}", highlight=False, soft_wrap=True)


@app.command()
def predictions(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    settings: SetOption = None,
    tasks: Annotated[int, typer.Option(min=1, help="How many tasks, the first by id.")] = 6,
    task: Annotated[list[str] | None, typer.Option(help="This task; may be given again.")] = None,
    demos: Annotated[bool, typer.Option(help="Draw the tasks' demonstrations too.")] = False,
    out: Annotated[Path | None, typer.Option(help="The PNG to write.")] = None,
) -> None:
    """Draw what a run answers, as `etrm evaluate` scores it: input, target, answer with its wrong cells marked.

    What is asked stands in the run's evaluate section; change it with --set evaluate.subset=..., .source,
    .max_tasks, .weights, .augmentations.
    """
    from reports.runs.prediction_drawing import as_png, caption, in_terminal
    from reports.runs.predictions import predictions as answers_of
    from reports.terminal.console import open_console
    from reports.write import write_file

    found, answers = answers_of(run, settings or (), tasks=tasks, only=task or ())
    console = open_console()
    console.print(in_terminal(answers, demos=demos))
    title = caption(run, found, answers)
    console.print(title, highlight=False, soft_wrap=True)
    if out:
        write_file(out, as_png(title, answers, demos=demos))
        console.print(f"figure: {out}", highlight=False, soft_wrap=True)


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

    print_settings(_resolved(run, preset, config, tuple(settings or ())), as_json)


@app.command()
def faults() -> None:
    """List the faults that --inject can switch on."""
    from rich.table import Table

    from etrm.training.faults import FAULTS
    from reports.terminal.console import open_console

    table = Table("fault", "root cause", "what it does", "seen in")
    for fault in FAULTS.values():
        table.add_row(fault.name, fault.root_cause, fault.what, fault.seen)
    open_console().print(table)


@app.command("audit")
def audit_case(
    target: Annotated[
        str,
        typer.Argument(metavar="PATH:FUNCTION", help="A function that returns the arguments of an audit."),
    ],
    form: Annotated[str, typer.Option("--format", help="table, markdown, json, sarif or html.")] = "table",
    out: Annotated[Path | None, typer.Option(help="The file to write, in place of the terminal.")] = None,
    select: Annotated[list[str] | None, typer.Option(help="Rules, modules, or RULE:MODULE.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="The same, to be left out.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="Findings that are known.")] = None,
    write_baseline: Annotated[Path | None, typer.Option(help="Write what is found as a baseline.")] = None,
) -> None:
    """Audit a training step of your own: any torch model.

    The function returns the arguments of `diagnostics.audit`:

    \b
        def make_case():
            return {"model": model, "step": step, "batches": loader, "optimizer": optimizer}

    step(model, batch) returns the loss, or makes the whole step.

    Exit code 0 nothing above a note, 1 findings, 2 bad input.
    """
    from diagnostics.auditing.case_file import UserError
    from etrm.training.audit import AuditRequest, run_audit
    from reports.terminal.console import open_console

    request = AuditRequest(target, form, out, select or (), ignore or (), baseline, write_baseline)
    try:
        found, text = run_audit(request)
    except UserError as error:
        open_console(stderr=True).out(error, end="", highlight=False)
        raise typer.Exit(2) from None
    open_console().out(f"audit: {out}" if out else text, highlight=False)
    if not found.clean:
        raise typer.Exit(1)


@data.command()
def show(
    task: Annotated[str, typer.Argument(help="Task id.")],
    source: SourceOption = "arc-agi-1",
    subset: Annotated[
        str | None, typer.Option(help="training or evaluation; both are searched by default.")
    ] = None,
    augmentation: Annotated[
        int | None,
        typer.Option(min=0, max=9999, help="Draw an episode as the model sees it; 0 is the identity."),
    ] = None,
    query: Annotated[
        int, typer.Option(min=0, help="With --augmentation: a test, then a demonstration left out.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="With --augmentation: train.seed of the run.")] = 0,
) -> None:
    """Draw a task in the terminal, or one of its episodes under an augmentation."""
    from etrm.data.draw import draw_episode, draw_task
    from etrm.data.episodes import episode_of
    from reports.terminal.console import open_console

    found = _find_task(task, source, subset)
    if augmentation is None:
        drawn = draw_task(found)
    else:
        asked, sample = episode_of(found, query, augmentation, seed)
        drawn = draw_episode(sample, asked)
    open_console().print(drawn)


@data.command()
def check(
    source: SourceOption = "arc-agi-1",
    subset: SubsetOption = "training",
    max_side: SideOption = 30,
    store: Annotated[
        Path | None, typer.Option(help="Verify every shard of this store in place of tasks.")
    ] = None,
) -> None:
    """Count and validate tasks, or a store."""
    from etrm.data import describe, load_tasks
    from etrm.data.store import Store
    from reports.terminal.console import open_console
    from reports.terminal.data_tables import store_table, summary_table

    if store is None:
        open_console().print(summary_table(describe(load_tasks(source, subset, max_side, None))))
        return
    found = Store(store)
    found.verify()
    open_console().print(store_table(f"{store}: every shard is what was written", found.index))


@data.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder of the store.")],
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the files do not depend on it.")] = 1,
) -> None:
    """Build a store of augmented tasks for large runs; read with --set data.store=FOLDER.

    The tasks, data.augmentations and train.seed are those of the config. Ctrl-C and kill lose nothing: the same command
    goes on.
    """
    from etrm.data import chosen_tasks
    from etrm.data.build import build_store
    from etrm.errors import ConfigError
    from reports.terminal.console import open_console
    from reports.terminal.data_tables import store_table

    chosen = _config(preset, config, settings, None)
    augmentations = chosen.data.augmentations
    if augmentations == "fresh":
        raise ConfigError(
            "store.fresh-augmentations",
            "a store holds fixed augmentations",
            got="fresh",
            next_step="--set data.augmentations=1000",
        )
    with _resumable("tasks") as phases:
        index = build_store(
            out,
            chosen_tasks(chosen.data),
            augmentations,
            chosen.train.seed,
            workers=workers,
            progress=lambda done, total: phases.update("store", done, total),
        )
    open_console().print(store_table(str(out), index))


@checkpoint.command("inspect")
def inspect_checkpoint(
    path: CheckpointArgument, weights: WeightsOption = "ema", as_json: JsonOption = False
) -> None:
    """Show every tensor with its statistics, the totals, the settings, and what is known of their origin."""
    from etrm.checkpoints.inspect_tensors import inspect_weights
    from etrm.checkpoints.weights import read_weights
    from reports.terminal.checkpoint_tables import inspection, print_result

    print_result(inspect_weights(read_weights(path, _weights(weights))), inspection, as_json)


@checkpoint.command("compare")
def compare_checkpoints(
    first: CheckpointArgument,
    second: CheckpointArgument,
    weights: WeightsOption = "ema",
    as_json: JsonOption = False,
) -> None:
    """Compare two checkpoints tensor by tensor, published names or ours.

    Exit code 0 equal bit for bit, 1 different, 2 bad input.
    """
    from etrm.checkpoints.inspect_tensors import compare_weights
    from etrm.checkpoints.weights import read_weights
    from reports.terminal.checkpoint_tables import comparison, print_result

    kind = _weights(weights)
    found = compare_weights(read_weights(first, kind), read_weights(second, kind))
    print_result(found, comparison, as_json)
    if not found.equal:
        raise typer.Exit(1)


@checkpoint.command("import")
def import_published(
    file: Annotated[Path, typer.Argument(help="A published TRM or ETRM checkpoint.")],
    out: Annotated[Path, typer.Option(help="The run folder to write.")],
    settings_file: Annotated[
        Path | None, typer.Option("--settings", help="JSON or YAML of its settings; looked for beside FILE.")
    ] = None,
    settings: SetOption = None,
) -> None:
    """Make a run folder of a published checkpoint, for train.decoder, `etrm evaluate` and `etrm train --resume`.

    What its weights do not say (cycles, heads, ...) comes from --set or a settings file, and is never guessed.
    """
    from etrm.checkpoints.import_published import import_checkpoint
    from reports.terminal.checkpoint_tables import imported, print_result

    found = import_checkpoint(file, out, settings_file, tuple(settings or ()))
    print_result(found, imported, as_json=False)


@checkpoint.command("export")
def export_published(
    source: Annotated[Path, typer.Argument(help="A run folder, or one of its checkpoint folders.")],
    out: Annotated[Path, typer.Option(help="The file to write; its settings go to NAME.json beside it.")],
    weights: WeightsOption = "ema",
    form: Annotated[str, typer.Option("--format", help="safetensors or torch.")] = "safetensors",
) -> None:
    """Write weights of ours under the published names, for the published code."""
    from etrm.checkpoints.export_published import export_checkpoint
    from reports.terminal.console import open_console

    found = export_checkpoint(
        source, out, _weights(weights), _one_of("--format", form, "safetensors", "torch")
    )
    open_console().print(
        f"{found.file}: {found.tensors} tensors, {found.weights} weights; settings: {found.settings}",
        highlight=False,
        soft_wrap=True,
    )


def _weights(name: str) -> Any:
    return _one_of("--weights", name, "ema", "raw")


def _one_of(option: str, given: str, *allowed: str) -> Any:
    from etrm.errors import ConfigError

    if given not in allowed:
        raise ConfigError("cli.unknown-choice", f"unknown {option} {given!r}", allowed=" or ".join(allowed))
    return given


def _find_task(task: str, source: str, subset: str | None) -> Any:
    from etrm.data import load_tasks
    from etrm.errors import DataError

    subsets = [subset] if subset else ["training", "evaluation"]
    problems: dict[str, DataError] = {}
    for name in subsets:
        try:
            return load_tasks(source, name, 30, None).get(task)
        except DataError as error:
            problems.setdefault(str(error), error)
    codes = [error.code for error in problems.values()]
    raise DataError(codes[0], "\n".join(problems), codes=codes)


bench_app = typer.Typer(no_args_is_help=True, help="Benches of the tool itself.")
app.add_typer(bench_app, name="bench")


@bench_app.command("faults")
def bench_faults(
    names: Annotated[list[str] | None, typer.Argument(help="Faults and controls; all by default.")] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Cases of each fault.")] = 3,
    tier: TierOption = "screening",
    per_case: Annotated[
        int | None,
        typer.Option(min=1, help="Seeds of each arm of an investigation in place of the tier's."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Investigations at a time, one process each.")] = 2,
    pretrain_steps: PretrainOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the bench; finished cases stay.")] = Path(
        "runs/fault-bench"
    ),
) -> None:
    """Inject each fault, investigate blind, and count whether its root cause is named."""
    from etrm.files import write_atomically
    from etrm.investigation import fault_benchmark as fault_bench
    from reports.pages.fault_benchmark_page import page
    from reports.terminal.console import open_console

    base = _config(preset, config, settings, None)
    budget = _tier(tier, per_case, pretrain_steps)
    chosen = fault_bench.cases(names or (), seeds, budget.most_seeds)
    with _resumable("") as phases:
        outcomes = fault_bench.run(
            base,
            chosen,
            out,
            workers=jobs,
            tier=budget,
            progress=phases.update,
        )
    text = page(outcomes)
    write_atomically(out / "index.md", f"# Injected and named\n\n{text}")
    open_console().print(text, markup=False, highlight=False, soft_wrap=True)


experiment_app = typer.Typer(
    no_args_is_help=True, help="The named experiments: E0-E11, A1-A16, O1-O3, X1-X3."
)
app.add_typer(experiment_app, name="experiment")
ExperimentSeeds = Annotated[int, typer.Option("--seeds", min=1, help="Seeds of each; five can validate.")]
ExperimentOut = Annotated[Path, typer.Option("--out", help="Folder of the runs; finished ones stay.")]


@experiment_app.command("list")
def experiment_list() -> None:
    """What there is, and the one difference of each."""
    from reports.pages.experiments_page import listing
    from reports.terminal.console import open_console

    open_console().print(listing(), markup=False, highlight=False, soft_wrap=True)


@experiment_app.command("run")
def experiment_run(
    names: Annotated[list[str], typer.Argument(help="E7 and the like; E0 is run beside them.")],
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    seeds: ExperimentSeeds = 3,
    jobs: JobsOption = 2,
    threads: ThreadsOption = 1,
    launcher: LauncherOption = "processes",
    launcher_set: LauncherSetOption = None,
    out: ExperimentOut = Path("runs/experiments"),
) -> None:
    """Run some experiments beside the baseline, and print the table."""
    from etrm.investigation.experiments.registry import BASELINE, find

    chosen = [find(name) for name in dict.fromkeys((BASELINE, *names))]
    _experiments(
        chosen,
        _config(preset, config, settings, None),
        seeds,
        _launcher(launcher, jobs, threads, launcher_set),
        out,
    )


@experiment_app.command("suite")
def experiment_suite(
    name: Annotated[str, typer.Argument(help="gate, stability, encoder, halting, kinds or all.")],
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    seeds: ExperimentSeeds = 3,
    jobs: JobsOption = 2,
    threads: ThreadsOption = 1,
    launcher: LauncherOption = "processes",
    launcher_set: LauncherSetOption = None,
    out: ExperimentOut = Path("runs/experiments"),
) -> None:
    """Run a whole suite, the overfit gate first, and print the table."""
    from etrm.investigation.experiments.registry import of_suite

    _experiments(
        of_suite(name),
        _config(preset, config, settings, None),
        seeds,
        _launcher(launcher, jobs, threads, launcher_set),
        out,
    )


@experiment_app.command("table")
def experiment_table(
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    seeds: ExperimentSeeds = 3,
    out: ExperimentOut = Path("runs/experiments"),
) -> None:
    """The tracking table of what a folder holds now; nothing is run."""
    from reports.pages.experiments_page import page
    from reports.terminal.console import open_console

    base = _config(preset, config, settings, None)
    open_console().print(page(out, base, seeds), markup=False, highlight=False, soft_wrap=True)


def _experiments(chosen: list[Experiment], base: Config, seeds: int, launcher: Launcher, out: Path) -> None:
    from etrm.files import write_atomically
    from etrm.investigation.experiments.registry import run
    from reports.pages.experiments_page import page
    from reports.terminal.console import open_console

    with _resumable() as phases:
        for experiment in chosen:
            name = f"{experiment.name}, {experiment.what}"
            run([experiment], base, out, seeds, launcher, partial(phases.update, name))
    text = page(out, base, seeds)
    write_atomically(out / "index.md", text)
    open_console().print(text, markup=False, highlight=False, soft_wrap=True)


def _decide(subject: tuple[Config, str], out: Path, **options: Any) -> Result:
    """Investigate, render and print."""
    from etrm.investigation.run import investigate
    from reports import read_and_render, summary
    from reports.terminal.console import open_console
    from reports.terminal.summary import announcement

    chosen, name = subject
    command = "etrm " + shlex.join(sys.argv[1:])
    with _resumable() as phases:
        investigate(
            chosen,
            out,
            name=name,
            command=command,
            progress=phases.update,
            on_verdict=lambda found: phases.say(announcement(found)),
            **options,
        )
    result = read_and_render(out)
    open_console().print(summary(result))
    _say_where(out)
    return result


def _tier(name: str, seeds: int | None, pretrain_steps: int | None) -> Tier:
    """A tier, with what was asked for in place of its own."""
    from etrm.investigation.runs.budget import find

    tier = find(name)
    if seeds is not None:
        tier = replace(tier, seeds=seeds, short_seeds=seeds)
    return replace(tier, pretrain_steps=pretrain_steps or tier.pretrain_steps)


def _launcher(name: str, jobs: int, threads: int, settings: list[str] | None) -> Launcher:
    from etrm.investigation.runs.launchers import launcher

    return launcher(name, jobs, settings or (), threads)


@contextmanager
def _resumable(unit: str = "steps") -> Iterator[Phases]:
    """The bars of long work whose finished parts stay; Ctrl-C ends with exit code 130."""
    from etrm.errors import Interrupted
    from reports.terminal.console import Phases, open_console

    with Phases(unit) as phases:
        try:
            yield phases
        except (Interrupted, KeyboardInterrupt):
            phases.close()
            open_console(stderr=True).print("interrupted; the same command goes on from here")
            raise typer.Exit(130) from None


def _subject(
    run: Path | None,
    preset: str | None,
    config: Path | None,
    settings: list[str] | None,
    inject: list[str] | None,
) -> tuple[Config, str]:
    """The config to be judged and how to call it."""
    chosen = _checked(_resolved(run, preset, config, _overrides(settings, inject)).config)
    if run is not None:
        name = f"{'checkpoint' if _is_checkpoint(run) else 'run'} {run}"
    else:
        name = str(config) if config else f"preset {chosen.preset}"
    faults = f" with {', '.join(chosen.faults)}" if chosen.faults else ""
    return chosen, name + faults


def _config(
    preset: str | None, path: Path | None, settings: list[str] | None, inject: list[str] | None
) -> Config:
    return _checked(_resolved(None, preset, path, _overrides(settings, inject)).config)


def _checked(config: Config) -> Config:
    """The config, whose faults are all known."""
    from etrm.training.faults import recipe_for

    recipe_for(config)
    return config


def _resolved(
    run: Path | None, preset: str | None, path: Path | None, overrides: tuple[str, ...]
) -> Resolved:
    """The config of a run, a preset or a file with its overrides; of the preset small where none is given."""
    from etrm.config import resolve, resolve_run
    from etrm.errors import ConfigError

    if run is None:
        return resolve("small" if preset is None and path is None else preset, path, overrides)
    if preset or path:
        raise ConfigError(
            "cli.two-subjects",
            "both a run and a preset or config were given",
            next_step="give one of them",
        )
    if run.is_file():
        raise ConfigError(
            "cli.file-without-config",
            f"{run} is a file, which does not say how it is trained",
            allowed="a run folder, or one of its checkpoints",
            next_step=f"etrm checkpoint import {run} --out DIR, then give DIR",
        )
    from etrm.checkpoints.run_folder import read_config

    folder = run.parents[1] if _is_checkpoint(run) else run
    return resolve_run(folder, read_config(folder), overrides)


def _is_checkpoint(run: Path) -> bool:
    return run.parent.name == "checkpoints"


def _overrides(settings: list[str] | None, inject: list[str] | None) -> tuple[str, ...]:
    names = ", ".join(f'"{name}"' for name in inject or ())
    return (*(settings or ()), *((f"faults=[{names}]",) if inject else ()))


if __name__ == "__main__":
    from etrm.__main__ import main as checked_main

    checked_main()
