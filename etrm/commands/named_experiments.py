"""Run the named experiments and print their tables."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etrm.commands.apps import experiment_app
from etrm.commands.chosen_config import allow_named, resolve_config
from etrm.commands.options import (
    ConfigOption,
    JobsOption,
    LauncherOption,
    LauncherSetOption,
    PresetOption,
    SetOption,
    ThreadsOption,
    check_folder,
)
from etrm.commands.resumable_work import make_launcher, resumable_work

if TYPE_CHECKING:
    from etrm.config import Config
    from etrm.investigation.experiments.registry import Experiment
    from etrm.investigation.runs.launchers import Launcher


ExperimentSeeds = Annotated[
    int, typer.Option("--seeds", min=1, help="Seeds of each experiment. A verdict needs at least five.")
]


ExperimentOut = Annotated[
    Path,
    typer.Option(
        "--out", help="Folder for the runs. Finished runs are kept and not run again.", callback=check_folder
    ),
]


@experiment_app.command("list")
def experiment_list() -> None:
    """List the experiments and how each differs from the baseline."""
    from reports.pages.experiments_page import listing
    from reports.terminal.console import print_page

    print_page(listing())


@experiment_app.command("run")
def experiment_run(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Names of experiments, e.g. E7, or of code: my_code.py:MY_EXPERIMENT. "
            "The baseline E0 is always run too."
        ),
    ],
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
    """Run experiments and the baseline, and print the results.

    Exit code: 0, 2 for bad input, 3 if all runs of an experiment failed for another reason than that they diverged.
    """
    from etrm.investigation.experiments.registry import BASELINE, find

    allow_named(names)
    chosen = [find(name) for name in dict.fromkeys((BASELINE, *names))]
    _experiments(
        chosen,
        resolve_config(preset, config, settings, None),
        seeds,
        make_launcher(launcher, jobs, threads, launcher_set),
        out,
    )


@experiment_app.command("suite")
def experiment_suite(
    name: Annotated[
        str, typer.Argument(help="Name of the suite: gate, stability, encoder, halting, kinds or all.")
    ],
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
    """Run all experiments of a suite, the overfit gate first, and print the results.

    Exit code: as for `etrm experiment run`.
    """
    from etrm.investigation.experiments.registry import of_suite

    _experiments(
        of_suite(name),
        resolve_config(preset, config, settings, None),
        seeds,
        make_launcher(launcher, jobs, threads, launcher_set),
        out,
    )


@experiment_app.command("table")
def experiment_table(
    names: Annotated[
        list[str] | None, typer.Argument(help="Experiments that are code, to be listed too.")
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    seeds: ExperimentSeeds = 3,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/experiments"),
) -> None:
    """Print the results that a folder holds now, without running anything."""
    from etrm.investigation.experiments.registry import find
    from reports.pages.experiments_page import page
    from reports.terminal.console import print_page

    allow_named(names or ())
    outside = [find(name) for name in names or ()]
    base = resolve_config(preset, config, settings, None)
    print_page(page(out, base, seeds, outside))


def _experiments(chosen: list[Experiment], base: Config, seeds: int, launcher: Launcher, out: Path) -> None:
    from etrm.atomic_files import write_atomically
    from etrm.investigation.experiments.registry import run
    from etrm.investigation.folder_claim import hold_folder
    from reports.pages.experiments_page import page
    from reports.terminal.console import print_page
    from reports.terminal.progress import Phases

    with hold_folder(out), resumable_work(Phases()) as phases:
        failed = False
        for experiment in chosen:
            name = f"{experiment.name}, {experiment.what}"
            found = run([experiment], base, out, seeds, launcher, partial(phases.update, name))
            failed |= all(one.failed and not one.diverged for one in found)
    text = page(out, base, seeds, chosen)
    write_atomically(out / "index.md", text)
    print_page(text)
    if failed:
        raise typer.Exit(3)
