"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PresetOption = Annotated[
    str | None, typer.Option(help="A preset of the package: smoke, small, rules or overfit.")
]
ConfigOption = Annotated[
    Path | None, typer.Option(help='A TOML file; preset = "NAME" in it extends that preset.')
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, e.g. train.lr=1e-3 or model.encoder.kind=my_code.py:MyEncoder.",
    ),
]
InjectOption = Annotated[
    list[str] | None,
    typer.Option("--inject", metavar="FAULT", help="A name of `etrm faults`, or code: my_code.py:MY_FAULT."),
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Run the code that the run's config names, as its files are now: read them first.",
    ),
]
SourceOption = Annotated[
    str,
    typer.Option(
        help="arc-agi-1, arc-agi-2, rules, a folder, a Kaggle challenges file, or code: my_code.py:my_tasks."
    ),
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
