"""Investigate a model that is not of this project: `etrm investigate my_model.py:make_model`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from etrm.commands.options import find_given
from etrm.commands.resumable_work import print_report_paths, resumable_work

if TYPE_CHECKING:
    from etrm.investigation.result import Result

TAKEN = ("run", "hypotheses", "seeds", "until_root_cause", "out", "fail_on", "allow_code")
"""Parameters of `etrm investigate` that apply to an own model. The others are about runs of this project."""


def names_own_model(run: Path) -> bool:
    """Return whether an argument names code, and is not a folder that exists."""
    from etrm.extensions import parse

    return not run.exists() and parse(str(run)) is not None


def run_own_model(
    context: typer.Context,
    name: str,
    out: Path,
    hypotheses: Sequence[str],
    seeds: int | None,
    until_root_cause: bool,
) -> Result:
    """Investigate a model, render its report and print its summary.

    Raises:
        ConfigError: an option that does not apply was given.
        ExtensionError: the code cannot be loaded, or the adapter is wrong. If a function of the adapter fails after
            the first calls, the rest is decided and the report is written before.
    """
    from etrm.errors import ExtensionError
    from etrm.extensions import allow
    from etrm.investigation.own_model import investigate_model
    from etrm.investigation.own_model.investigate_model import OWN_HYPOTHESES, choose_own
    from reports import read_and_render, summary
    from reports.terminal.console import open_console
    from reports.terminal.progress import InvestigationProgress

    refuse_other_options(context)
    allow(name)
    titles = {id: f"{id} {one.statement.title}" for id, one in OWN_HYPOTHESES.items()}
    view = InvestigationProgress(
        titles, expected=choose_own(hypotheses), stops=until_root_cause, resumes=False
    )
    refusals: list[ExtensionError] = []
    with resumable_work(view):
        found = investigate_model(
            name,
            out,
            hypotheses=hypotheses,
            seeds=seeds,
            until_root_cause=until_root_cause,
            command="etrm " + shlex.join(sys.argv[1:]),
            progress=view.update,
            on_verdict=view.decide,
            on_refusal=refusals.append,
        )
        view.finish(found)
    result = read_and_render(out)
    open_console().print(summary(result))
    print_report_paths(out)
    if refusals:
        raise refusals[0]
    return result


def refuse_other_options(context: typer.Context) -> None:
    """Refuse the options of the current command that do not apply to an own model.

    Raises:
        ConfigError: such an option was given.
    """
    from etrm.errors import ConfigError

    given = find_given(context, context.params.keys() - set(TAKEN))
    if given:
        raise ConfigError(
            "cli.option-of-our-runs",
            "this option does not apply to a model of your own",
            got=", ".join(given),
            allowed="--hypotheses, --seeds, --until-root-cause, --out, --fail-on",
            next_step="leave it out; the adapter holds the settings of the model",
        )
