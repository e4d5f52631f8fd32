"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PresetOption = Annotated[
    str | None,
    typer.Option(help="Preset to start from: smoke, small, rules, overfit, symbolic or symbolic-rules."),
]
ConfigOption = Annotated[
    Path | None, typer.Option(help='TOML file of settings. preset = "NAME" in it extends that preset.')
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Setting to change, e.g. train.lr=1e-3. Repeatable."),
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Permission to run the code that the run's config names, as its files are now. Read them first.",
    ),
]
InjectOption = Annotated[
    list[str] | None,
    typer.Option(
        "--inject",
        metavar="FAULT",
        help="Fault to inject: a name of `etrm faults`, or of code: my_code.py:MY_FAULT. Repeatable.",
    ),
]
SourceOption = Annotated[
    str,
    typer.Option(
        help="Source of the tasks: arc-agi-1, arc-agi-2, rules, a folder, a Kaggle challenges file, "
        "or code: my_code.py:my_tasks."
    ),
]
SubsetOption = Annotated[str, typer.Option(help="Subset of the source: training or evaluation.")]
WeightsOption = Annotated[str, typer.Option(help="Weights to read: ema or raw. Our checkpoints hold both.")]
TierOption = Annotated[
    str, typer.Option(help="Budget: screening (3 seeds), standard (5 seeds) or full (5 seeds, long runs).")
]
SeedsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Seeds per arm. Default: the tier's. Fewer than five make it a screening."),
]
PretrainOption = Annotated[
    int | None, typer.Option(min=1, help="Training steps of the TRM decoder. Default: the tier's.")
]
JobsOption = Annotated[int, typer.Option(min=1, help="Training runs that run at the same time.")]
ThreadsOption = Annotated[
    int,
    typer.Option(min=1, help="CPU threads per run. Another number changes the results by rounding errors."),
]
LauncherOption = Annotated[
    str,
    typer.Option(
        help="Where training runs start: processes on this machine, or through submitit: local or slurm."
    ),
]
LauncherSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--launcher-set",
        metavar="KEY=VALUE",
        help="Parameter for submitit, e.g. slurm_partition=gpu. Repeatable.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
CheckpointArgument = Annotated[Path, typer.Argument(help="A run folder, a checkpoint folder, or a file.")]
SideOption = Annotated[
    int,
    typer.Option(
        min=1, max=30, help="Largest side of a grid, in cells. Tasks with a larger grid are left out."
    ),
]
