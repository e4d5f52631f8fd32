"""`python -m diagnostics audit`: audits a file, or a model of an installed library, and prints the findings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diagnostics.auditing.audit import FORMATS, Audit
from diagnostics.auditing.case_file import UserError, artifact_of, audit_file
from diagnostics.auditing.probes.probe import check_probe
from diagnostics.auditing.scripts.script import ScriptAudit
from diagnostics.errors import ToolkitError
from diagnostics.object_loading import load_object
from diagnostics.report.baselines import read_baseline, write_baseline
from diagnostics.report.text import is_colored, terminal_width
from diagnostics.report.whole_files import check_target, write_whole
from diagnostics.rules import load

TARGETS = (
    "FILE.py, a training script, with its arguments after --; FILE.py:FUNCTION that returns the arguments of"
    " diagnostics.audit, for more checks; or hf:NAME, timm:NAME, torchvision:NAME"
)


def split_arguments(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words before and after the first `--`; those after it are the arguments of a script."""
    given = list(words)
    at = given.index("--") if "--" in given else len(given)
    return given[:at], given[at + 1 :]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare target and options on a parser."""
    many: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("target", help=TARGETS)
    parser.add_argument("--format", choices=FORMATS, default="table", help="output format")
    parser.add_argument("--out", type=Path, help="file to write the output to, instead of printing it")
    parser.add_argument("--steps", type=int, help="number of training steps; a script is stopped after them")
    parser.add_argument("--all", action="store_true", help="let a script run to its end")
    parser.add_argument("--watch", metavar="PATTERN", **many, help="modules to watch; repeatable")
    parser.add_argument(
        "--expect-frozen", metavar="PATTERN", **many, help="modules that must not move; repeatable"
    )
    parser.add_argument(
        "--expect-partial",
        metavar="PATTERN",
        **many,
        help="modules of which some calls run under no_grad on purpose; repeatable",
    )
    parser.add_argument(
        "--terms", metavar="NAMES", **many, help="names of the loss terms that step returns: task,kl"
    )
    parser.add_argument("--select", metavar="PATTERN", **many, help="findings to keep; repeatable")
    parser.add_argument("--ignore", metavar="PATTERN", **many, help="findings to leave out; repeatable")
    parser.add_argument("--baseline", type=Path, help="file of known findings, which are left out")
    parser.add_argument("--write-baseline", type=Path, help="file to write the findings to as known ones")
    parser.add_argument("--probe", metavar="CODE", **many, help="probe to run, FILE.py:NAME; repeatable")
    parser.add_argument("--rule", metavar="CODE", **many, help="rule to run, FILE.py:NAME; repeatable")


def choose_options(
    steps: int | None,
    watch: Sequence[str],
    terms: Sequence[str],
    expect_frozen: Sequence[str],
    expect_partial: Sequence[str],
) -> dict[str, Any]:
    """The arguments of `audit` that were given; the others are those of the case.

    Args:
        steps: As it is.
        watch, terms, expect_frozen, expect_partial: Names or patterns, also several with commas between.
    """
    given = {
        "steps": steps,
        "watch": _split(watch) or None,
        "expect_frozen": _split(expect_frozen) or None,
        "expect_partial": _split(expect_partial) or None,
        "terms": _split(terms) or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _split(given: Sequence[str]) -> list[str]:
    """The names that commas separate; names of modules have none."""
    return [name.strip() for each in given for name in each.split(",") if name.strip()]


def run(chosen: argparse.Namespace, arguments: Sequence[str] = ()) -> int:
    """Audit, and print or write the report.

    Args:
        chosen: Target and options.
        arguments: Arguments of a script.

    Returns:
        The exit code: 0 if nothing is above a note, 1 if something is, 2 for bad input or an exception in the user's
        code.
    """
    try:
        for file in filter(None, (chosen.out, chosen.write_baseline)):
            check_target(file)
        options = choose_options(
            chosen.steps,
            chosen.watch,
            chosen.terms,
            chosen.expect_frozen,
            chosen.expect_partial,
        )
        options |= {"select": chosen.select, "ignore": chosen.ignore}
        if chosen.baseline:
            options["baseline"] = read_baseline(chosen.baseline)
        if chosen.probe:
            options["probes"] = [check_probe(_made(name), name) for name in chosen.probe]
        if chosen.rule:
            options["rules"] = [load(name) for name in chosen.rule]
        found = audit_file(chosen.target, arguments, to_end=chosen.all, **options)
        shown: dict[str, Any] = {} if chosen.out else {"width": terminal_width(), "color": is_colored()}
        text = found.render(chosen.format, artifact_of(chosen.target), **shown)
        if chosen.out:
            write_whole(chosen.out, text)
        if chosen.write_baseline:
            write_baseline(chosen.write_baseline, found.findings)
    except UserError as error:
        sys.stderr.write(str(error))
        return 2
    except (ToolkitError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"audit: {chosen.out}\n" if chosen.out else text)
    return finish(found, chosen.format, bool(chosen.out))


def finish(found: Audit, form: str, to_file: bool) -> int:
    """Print on stderr what the report of a script does not show.

    Returns:
        The exit code.
    """
    if not isinstance(found, ScriptAudit):
        return 0 if found.clean else 1
    if to_file or form not in ("table", "markdown"):
        sys.stderr.write(f"{found.summary}\n")
    sys.stderr.write(found.trace)
    return 2 if found.trace else 0 if found.clean else 1


def _made(name: str) -> Any:
    found = load_object(name, "etrm.probes")
    return found() if isinstance(found, type) else found
