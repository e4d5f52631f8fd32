"""Functions that several commands share: choose the config and the budget, run resumable work, print report paths."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from etrm.config import Config, Resolved
    from etrm.investigation.result import Result
    from etrm.investigation.runs.budget import Tier
    from etrm.investigation.runs.launchers import Launcher
    from reports.terminal.progress import Phases


def run_investigation(subject: tuple[Config, str], out: Path, **options: Any) -> Result:
    """Run an investigation, render its report and print its summary."""
    from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses
    from etrm.investigation.run import investigate
    from reports import read_and_render, summary
    from reports.terminal.console import open_console
    from reports.terminal.progress import InvestigationProgress

    chosen, name = subject
    command = "etrm " + shlex.join(sys.argv[1:])
    titles = {id: f"{id} {one.statement.title}" for id, one in all_hypotheses().items()}
    expected = [*options.get("hypotheses", ()), *(["experiments"] if options.get("experiments") else [])]
    view = InvestigationProgress(titles, expected=expected, stops=options.get("until_root_cause", False))
    with resumable_work(view):
        found = investigate(
            chosen,
            out,
            name=name,
            command=command,
            progress=view.update,
            on_verdict=view.decide,
            on_departure=view.depart,
            on_plan=view.plan,
            **options,
        )
        view.finish(found)
    result = read_and_render(out)
    open_console().print(summary(result))
    print_report_paths(out)
    return result


def budget_of(name: str, seeds: int | None, pretrain_steps: int | None) -> Tier:
    """Return a tier, with its seeds and pretraining steps replaced by the given ones."""
    from etrm.investigation.runs.budget import find

    tier = find(name)
    if seeds is not None:
        tier = replace(tier, seeds=seeds, short_seeds=seeds)
    return replace(tier, pretrain_steps=pretrain_steps or tier.pretrain_steps)


def make_launcher(name: str, jobs: int, threads: int, settings: list[str] | None) -> Launcher:
    from etrm.investigation.runs.launchers import launcher

    return launcher(name, jobs, settings or (), threads)


@contextmanager
def resumable_work(view: Phases) -> Iterator[Phases]:
    """Show the progress of work that can be resumed; Ctrl-C ends it with exit code 130."""
    from etrm.errors import Interrupted
    from reports.terminal.console import open_console

    with view:
        try:
            yield view
        except (Interrupted, KeyboardInterrupt):
            view.close()
            open_console(stderr=True).print(f"interrupted; {view.resume}", highlight=False)
            raise typer.Exit(130) from None


def read_subject(
    run: Path | None,
    preset: str | None,
    config: Path | None,
    settings: list[str] | None,
    inject: list[str] | None,
) -> tuple[Config, str]:
    """Return the config under test and its name in the report."""
    chosen = check_faults(resolve_settings(run, preset, config, overrides_of(settings, inject)).config)
    if run is not None:
        name = f"{'checkpoint' if is_checkpoint(run) else 'run'} {run}"
    else:
        name = str(config) if config else f"preset {chosen.preset}"
    faults = f" with {', '.join(chosen.faults)}" if chosen.faults else ""
    return chosen, name + faults


def allow_code_of(run: Path | None, *, allowed: bool, settings: list[str] | None = None) -> None:
    """Allow code to run: the code that the command line names and, if ``allowed``, that of the run's config.

    Raises:
        EtrmError: a file cannot be read, or there is no run.
    """
    from etrm.checkpoints.run_folder import read_config
    from etrm.config import named_code
    from etrm.extensions import allow
    from etrm.setting_texts import parse

    names = named_code(dict(parse(text) for text in settings or ()))
    if allowed and run is not None:
        folder = run.parents[1] if is_checkpoint(run) else run
        names += named_code(read_config(folder).model_dump(mode="json"))
    for name in names:
        allow(name)


def allow_named(names: Iterable[str]) -> None:
    """Allow code that the command line names to run. Words that are not names of code are ignored."""
    from etrm.config import is_rules
    from etrm.extensions import allow

    for name in names:
        if not is_rules(name):
            allow(name)


def resolve_config(
    preset: str | None,
    path: Path | None,
    settings: list[str] | None,
    inject: list[str] | None,
    *,
    run: Path | None = None,
) -> Config:
    return check_faults(resolve_settings(run, preset, path, overrides_of(settings, inject)).config)


def check_faults(config: Config) -> Config:
    """Return the config after checking that its faults exist."""
    from etrm.training.faults import build_recipe

    build_recipe(config)
    return config


def resolve_settings(
    run: Path | None, preset: str | None, path: Path | None, overrides: tuple[str, ...]
) -> Resolved:
    """Return the config of a run, a preset or a file, with its overrides applied. Default: the preset small."""
    from etrm.config import resolve, resolve_run
    from etrm.errors import ConfigError

    if run is None:
        return resolve("small" if preset is None and path is None else preset, path, overrides)
    if preset or path:
        raise ConfigError(
            "cli.two-subjects",
            "a run and a preset or config file were given together",
            allowed="a run, or a preset or config file",
            next_step=f"leave out {run}, or leave out --preset and --config",
        )
    if run.is_file():
        raise ConfigError(
            "cli.file-without-config",
            f"{run} is a file, which does not contain the config of a run",
            allowed="a run folder, or a checkpoint in one",
            next_step=f"etrm checkpoint import {run} --out DIR, then use DIR",
        )
    from etrm.checkpoints.run_folder import read_config

    folder = run.parents[1] if is_checkpoint(run) else run
    return resolve_run(folder, read_config(folder), overrides)


def is_checkpoint(run: Path) -> bool:
    return run.parent.name == "checkpoints"


def overrides_of(settings: list[str] | None, inject: list[str] | None) -> tuple[str, ...]:
    names = ", ".join(f'"{name}"' for name in inject or ())
    return (*(settings or ()), *((f"faults=[{names}]",) if inject else ()))


def print_report_paths(folder: Path) -> None:
    from reports.terminal.console import open_console

    for name in ("index.md", "report.html"):
        open_console().print(f"report: {folder / name}", highlight=False, soft_wrap=True)


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
