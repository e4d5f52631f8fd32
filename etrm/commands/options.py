"""Options and arguments that several commands share, and the panels of --help in which they stand."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from etrm.commands.completion import (
    choose_from,
    complete_fault,
    complete_investigation,
    complete_preset,
    complete_run,
    complete_setting,
)

SETTINGS = "Model, data and settings"
HYPOTHESES = "What is decided"
BUDGET = "Budget"
MACHINES = "Where runs start"

PresetOption = Annotated[
    str | None,
    typer.Option(
        help="Preset to start from, small if neither it nor --config is given: smoke, small, rules, overfit, symbolic "
        "or symbolic-rules.",
        autocompletion=complete_preset,
        rich_help_panel=SETTINGS,
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        help='TOML file of settings. preset = "NAME" in it extends that preset; without it, the file extends the '
        "defaults, which have the published size.",
        rich_help_panel=SETTINGS,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Setting to change, e.g. train.lr=1e-3. Repeatable.",
        autocompletion=complete_setting,
        rich_help_panel=SETTINGS,
    ),
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Allow the code that the run's config names to run, in its current files. Read them first.",
        rich_help_panel=SETTINGS,
    ),
]
InjectOption = Annotated[
    list[str] | None,
    typer.Option(
        "--inject",
        metavar="FAULT",
        help="Fault to inject in addition to those of the settings: a name in `etrm faults`, or code: "
        "my_code.py:MY_FAULT. Repeatable.",
        autocompletion=complete_fault,
        rich_help_panel=SETTINGS,
    ),
]
RunArgument = Annotated[Path, typer.Argument(help="A run folder.", autocompletion=complete_run)]
RunOrCheckpoint = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run folder or a checkpoint in one.", autocompletion=complete_run),
]
RunsArgument = Annotated[list[Path], typer.Argument(help="Run folders.", autocompletion=complete_run)]
InvestigationArgument = Annotated[
    Path,
    typer.Argument(
        help="Folder of an investigation, with its result.json.", autocompletion=complete_investigation
    ),
]
SourceOption = Annotated[
    str,
    typer.Option(
        help="Source of the tasks: arc-agi-1, arc-agi-2, rules, a folder, a Kaggle challenges file, "
        "or code: my_code.py:my_tasks."
    ),
]
WeightsOption = Annotated[
    str,
    typer.Option(
        help="Weights to read: ema or raw. Checkpoints of this project hold both.",
        autocompletion=choose_from("ema", "raw"),
    ),
]
TierOption = Annotated[
    str,
    typer.Option(
        help="Budget: screening (3 seeds), standard (5 seeds) or full (5 seeds, long runs).",
        autocompletion=choose_from("screening", "standard", "full"),
        rich_help_panel=BUDGET,
    ),
]
SeedsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Seeds per arm. Default: the tier's. With fewer than five the investigation is a screening.",
        rich_help_panel=BUDGET,
    ),
]
PretrainOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Training steps of the TRM decoder. Default: the tier's.", rich_help_panel=BUDGET
    ),
]
JobsOption = Annotated[
    int, typer.Option(min=1, help="Training runs that run at the same time.", rich_help_panel=MACHINES)
]
ThreadsOption = Annotated[
    int,
    typer.Option(
        min=1,
        help="CPU threads per run. Another number changes the results by rounding errors.",
        rich_help_panel=MACHINES,
    ),
]
LauncherOption = Annotated[
    str,
    typer.Option(
        help="Where training runs start: processes on this machine, or through submitit: local or slurm.",
        autocompletion=choose_from("processes", "local", "slurm"),
        rich_help_panel=MACHINES,
    ),
]
LauncherSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--launcher-set",
        metavar="KEY=VALUE",
        help="Parameter for submitit, e.g. slurm_partition=gpu. Repeatable.",
        rich_help_panel=MACHINES,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
CheckpointArgument = Annotated[
    Path, typer.Argument(help="A run folder, a checkpoint folder, or a file.", autocompletion=complete_run)
]
SideOption = Annotated[
    int,
    typer.Option(
        min=1, max=30, help="Largest side of a grid, in cells. Tasks with a larger grid are left out."
    ),
]


def check_file(path: Path | None) -> Path | None:
    """Return the file of an option that names an output, after checking before any work that it can be written."""
    from etrm.atomic_files import check_target

    if path is not None:
        check_target(path)
    return path


def check_folder(path: Path | None) -> Path | None:
    """Return the folder of an option that names an output, after checking before any work that it can be written."""
    from etrm.atomic_files import check_target

    if path is not None:
        check_target(path, folder=True)
    return path


def check_figure(path: Path | None) -> Path | None:
    """Return the PNG file of an option, after checking before any work its name and that it can be written."""
    from reports.write import check_png_name

    if path is not None:
        check_file(path)
        check_png_name(path)
    return path


def find_given(context: typer.Context, names: Collection[str]) -> list[str]:
    """Return those of some parameters of the current command that the command line gives, as options."""
    given = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            given.append(parameter.opts[0])
    return given


def refuse_without_effect(
    context: typer.Context, names: Collection[str], *, next_to: str = "", without: str = ""
) -> None:
    """Refuse parameters of the current command that would be ignored.

    Args:
        context: the context of the command.
        names: the parameters.
        next_to: the option next to which they are ignored, if it is one that was given.
        without: the option without which they are ignored, if it is one that was not given.

    Raises:
        ConfigError: such a parameter was given.
    """
    from etrm.errors import ConfigError

    given = " and ".join(find_given(context, names))
    if given:
        raise ConfigError(
            "cli.option-without-effect",
            f"{given} would be ignored " + (f"next to {next_to}" if next_to else f"without {without}"),
            next_step=f"leave out {given}, or {f'leave out {next_to}' if next_to else f'add {without}'}",
        )


def check_choice(option: str, given: str, *allowed: str) -> Any:
    from etrm.errors import ConfigError

    if given not in allowed:
        raise ConfigError(
            "cli.unknown-choice",
            f"unknown {option} {given!r}",
            allowed=" or ".join(allowed),
            next_step="the same command with --help lists the options",
        )
    return given
