"""Investigate a run or a config, and render and compare reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etrm.commands.apps import INVESTIGATE, app
from etrm.commands.chosen_config import allow_code_of, allow_named, read_subject
from etrm.commands.completion import choose_from, complete_investigation, complete_run
from etrm.commands.options import (
    HYPOTHESES,
    AllowCodeOption,
    ConfigOption,
    InjectOption,
    InvestigationArgument,
    JobsOption,
    LauncherOption,
    LauncherSetOption,
    PresetOption,
    PretrainOption,
    SeedsOption,
    SetOption,
    ThreadsOption,
    TierOption,
    check_file,
    check_folder,
)
from etrm.commands.own_models import names_own_model, run_own_model
from etrm.commands.resumable_work import (
    budget_of,
    make_launcher,
    print_report_paths,
    run_investigation,
)

if TYPE_CHECKING:
    from etrm.investigation.result import Result


@app.command(rich_help_panel=INVESTIGATE)
def investigate(
    context: typer.Context,
    run: Annotated[
        Path | None,
        typer.Argument(
            help="A run folder or a checkpoint: its records are checked, and its config is investigated. "
            "Or a model of your own: my_model.py:make_model.",
            autocompletion=complete_run,
        ),
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    inject: InjectOption = None,
    allow_code: AllowCodeOption = False,
    hypotheses: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IDS",
            help="Hypotheses to decide, e.g. H1,H2. Repeatable. Default: all that apply.",
            rich_help_panel=HYPOTHESES,
        ),
    ] = None,
    hypothesis: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE",
            help="Hypothesis of your own to decide too: my_code.py:MyOwn. Repeatable.",
            rich_help_panel=HYPOTHESES,
        ),
    ] = None,
    until_root_cause: Annotated[
        bool,
        typer.Option(
            help="Stop at the first proven root cause.", show_default=False, rich_help_panel=HYPOTHESES
        ),
    ] = False,
    tier: TierOption = "screening",
    seeds: SeedsOption = None,
    jobs: JobsOption = 2,
    threads: ThreadsOption = 1,
    launcher: LauncherOption = "processes",
    launcher_set: LauncherSetOption = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the results and the report.", callback=check_folder)
    ] = Path("runs/investigation"),
    experiments: Annotated[
        bool,
        typer.Option(
            help="Also run the frozen-decoder experiment. Default: yes.",
            show_default=False,
            rich_help_panel=HYPOTHESES,
        ),
    ] = True,
    pretrain_steps: PretrainOption = None,
    fail_on: Annotated[
        str | None,
        typer.Option(
            help="With the value validated: exit code 1 if a hypothesis is VALIDATED, that is, a fault is found.",
            autocompletion=choose_from("validated"),
        ),
    ] = None,
) -> None:
    """Find out why a run, a config or a model of your own does not learn. Writes result.json and a report.

    Exit code: 0 if the investigation finished, 1 with --fail-on validated if a hypothesis is VALIDATED, 2 for bad
    input, 3 if a verdict is ERROR, 130 if interrupted (the same command resumes).
    """
    from etrm.errors import ConfigError
    from etrm.investigation.runs.launchers import prepare_processes

    own_model = run is not None and names_own_model(run)
    if launcher == "processes" and not own_model:
        prepare_processes()  # first, because the imports below take seconds too
    from etrm.investigation.experiments.frozen_decoder import run as frozen
    from etrm.investigation.hypotheses.hypothesis_registry import load_hypothesis
    from etrm.investigation.run import choose

    if fail_on not in (None, "validated"):
        raise ConfigError(
            "cli.unknown-fail-on",
            f"unknown --fail-on {fail_on!r}",
            allowed="validated",
            next_step="leave the option out, or write --fail-on validated",
        )
    if own_model:
        leave_with(run_own_model(context, str(run), out, hypotheses or (), seeds, until_root_cause), fail_on)
        return
    allow_code_of(run, allowed=allow_code)
    allow_named(hypothesis or ())
    own = [load_hypothesis(name).id for name in hypothesis or ()]
    subject = read_subject(run, preset, config, settings, inject)
    result = run_investigation(
        subject,
        out,
        launcher=make_launcher(launcher, jobs, threads, launcher_set),
        tier=budget_of(tier, seeds, pretrain_steps),
        hypotheses=tuple(dict.fromkeys((*choose(subject[0], *hypotheses or ("all",)), *own))),
        until_root_cause=until_root_cause,
        experiments=(frozen,) if experiments else (),
        recorded_in=run,
    )
    leave_with(result, fail_on)


def leave_with(result: Result, fail_on: str | None) -> None:
    """End the command with exit code 3 if a verdict is ERROR, 1 if ``fail_on`` is given and one is VALIDATED."""
    from etrm.investigation.records import Verdict

    verdicts = [hypothesis.verdict for hypothesis in result.hypotheses.values()]
    if Verdict.ERROR in verdicts:
        raise typer.Exit(3)
    if fail_on and Verdict.VALIDATED in verdicts:
        raise typer.Exit(1)


@app.command("frozen-decoder", rich_help_panel=INVESTIGATE)
def frozen_decoder(
    run: Annotated[
        Path | None,
        typer.Argument(help="A run folder or a checkpoint; its config is used.", autocompletion=complete_run),
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    inject: InjectOption = None,
    allow_code: AllowCodeOption = False,
    as_original: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MISTAKE",
            help="Instead, repeat a mistake of the original experiment and show which check finds it: "
            "norms, optimizer, cycles, tasks, statistics or all.",
        ),
    ] = None,
    tier: TierOption = "screening",
    seeds: SeedsOption = None,
    jobs: JobsOption = 2,
    threads: ThreadsOption = 1,
    launcher: LauncherOption = "processes",
    launcher_set: LauncherSetOption = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the results and the report.", callback=check_folder)
    ] = Path("runs/frozen-decoder"),
    pretrain_steps: PretrainOption = None,
) -> None:
    """Freeze a pretrained decoder and train only the encoder: does it learn (A), stay stuck (B) or not help (C)?

    Exit code: 0, 2 for bad input, 3 if no run finished, 130 if interrupted (the same command resumes).
    """
    from etrm.investigation.experiments import replayed_mistakes as original
    from etrm.investigation.experiments.frozen_decoder import FrozenReason
    from etrm.investigation.experiments.frozen_decoder import run as frozen

    mistakes = original.chosen(as_original or ())
    allow_code_of(run, allowed=allow_code)
    result = run_investigation(
        read_subject(run, preset, config, settings, inject),
        out,
        launcher=make_launcher(launcher, jobs, threads, launcher_set),
        tier=budget_of(tier, seeds, pretrain_steps),
        hypotheses=(),
        experiments=((lambda found, _: original.run(found, mistakes)) if mistakes else frozen,),
    )
    if any(FrozenReason.NOTHING_TRAINED in experiment.codes for experiment in result.experiments):
        raise typer.Exit(3)


@app.command(rich_help_panel=INVESTIGATE)
def report(
    folder: InvestigationArgument,
) -> None:
    """Render the report of an investigation again (markdown and HTML) from its result.json."""
    from reports import read_and_render, summary
    from reports.terminal.console import open_console

    result = read_and_render(folder)
    open_console().print(summary(result))
    print_report_paths(folder)


@app.command(rich_help_panel=INVESTIGATE)
def diff(
    before: Annotated[
        Path,
        typer.Argument(help="Folder of the earlier investigation.", autocompletion=complete_investigation),
    ],
    after: Annotated[
        Path,
        typer.Argument(help="Folder of the later investigation.", autocompletion=complete_investigation),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Markdown file to which the differences are also written.", callback=check_file),
    ] = None,
    any_subject: Annotated[
        bool,
        typer.Option(help="Also compare investigations of different configs, e.g. before and after a fix."),
    ] = False,
    exit_code: Annotated[
        bool, typer.Option(help="Exit with code 1 if the two found different things.")
    ] = False,
) -> None:
    """Show what changed between two investigations: verdicts, evidence, settings, code, cost."""
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


@app.command(rich_help_panel=INVESTIGATE)
def faults() -> None:
    """List the faults that --inject can switch on."""
    from etrm.training.faults import FAULTS
    from reports.terminal.console import open_console
    from reports.text_table import make_table

    table = make_table(("fault", "root cause", "models", "what it does", "seen in"))
    for fault in FAULTS.values():
        table.add_row(fault.name, fault.root_cause, fault.models, fault.what, fault.seen)
    open_console().print(table)
