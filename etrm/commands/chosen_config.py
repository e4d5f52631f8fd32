"""The config that a command line chooses, and the code from outside that it allows to run."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from etrm.checkpoints.saved_steps import split_checkpoint

if TYPE_CHECKING:
    from etrm.config import Config, Resolved


def read_subject(
    run: Path | None,
    preset: str | None,
    config: Path | None,
    settings: list[str] | None,
    inject: list[str] | None,
) -> tuple[Config, str]:
    """Return the config under test and its name in the report."""
    chosen = resolve_config(preset, config, settings, inject, run=run)
    if run is not None:
        name = f"{'checkpoint' if split_checkpoint(run)[1] else 'run'} {run}"
    else:
        name = str(config) if config else f"preset {chosen.preset}"
    faults = f" with {', '.join(chosen.faults)}" if chosen.faults else ""
    return chosen, name + faults


def resolve_config(
    preset: str | None,
    path: Path | None,
    settings: list[str] | None,
    inject: list[str] | None,
    *,
    run: Path | None = None,
) -> Config:
    """Return the config of a run, a preset or a file with its settings, and with more faults injected."""
    from etrm.config import with_settings
    from etrm.extensions import absolute

    chosen = resolve_settings(run, preset, path, tuple(settings or ())).config
    if inject:
        allow_named(inject)
        faults = dict.fromkeys((*chosen.faults, *map(absolute, inject)))
        chosen = with_settings(chosen, faults=tuple(faults))
    return check_faults(chosen)


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
            next_step=_use_of_file(run),
        )
    from etrm.checkpoints.run_folder import read_config

    folder, _ = split_checkpoint(run)
    return resolve_run(folder, read_config(folder), overrides)


def _use_of_file(file: Path) -> str:
    """Return how to use a file that was given as a run."""
    name = shlex.quote(str(file))
    if file.suffix == ".py":
        return f"name its function: etrm investigate {name}:make_model"
    if file.suffix == ".toml":
        return f"give the file with --config {name}"
    return f"of a published checkpoint: etrm checkpoint import {name} --out DIR, then use DIR"


def check_faults(config: Config) -> Config:
    """Return the config after checking that its faults exist."""
    from etrm.training.faults import build_recipe

    build_recipe(config)
    return config


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
        folder, _ = split_checkpoint(run)
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
