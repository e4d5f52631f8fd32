"""The work of `etrm audit`: audit a user's case, render the findings, and separate user errors from ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagnostics import Audit, read_baseline, write_baseline
from diagnostics.auditing.audit import FORMATS
from diagnostics.auditing.case_file import CaseError, artifact_of, audit_file
from diagnostics.auditing.probes.probe import Probe
from diagnostics.report.text import is_colored, terminal_width
from etrm.atomic_files import write_atomically
from etrm.errors import ConfigError, WriteError
from etrm.extensions import ExtensionPoint, in_users_code
from etrm.training.monitoring.own_rules import find_rule

EXTENSION_POINT: ExtensionPoint[Probe] = ExtensionPoint(
    "probes",
    "probe",
    "an object, or a class without arguments, with rule: str and run(model, batch) -> list[Finding]",
    lambda found: hasattr(found, "rule") and callable(getattr(found, "run", None)),
)


def find_probe(name: str) -> Probe:
    """The probe of a name of code; of a class, one made without arguments.

    Raises:
        ExtensionError: its code cannot be loaded, or is not a probe.
    """
    found = EXTENSION_POINT.load(name)
    if not isinstance(found, type):
        return found
    with in_users_code(name):
        made: Probe = found()
    return made


@dataclass(frozen=True)
class AuditRequest:
    """The options of the command.

    `known` is the baseline to read, `learn` the baseline to write, `probes` and `rules` are names of code, and `audit`
    has further arguments of `diagnostics.audit`. `arguments` are those of a script, which `to_end` lets run to its end.
    """

    target: str
    form: str = "table"
    out: Path | None = None
    select: Sequence[str] = ()
    ignore: Sequence[str] = ()
    known: Path | None = None
    learn: Path | None = None
    probes: Sequence[str] = ()
    rules: Sequence[str] = ()
    audit: Mapping[str, Any] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    to_end: bool = False


def run_audit(request: AuditRequest) -> tuple[Audit, str]:
    """Run the audit, write the files that the request names, and return the audit and its text.

    Raises:
        ConfigError: the case, a pattern, the format or the baseline cannot be used.
        WriteError: a file cannot be written.
        diagnostics.auditing.case_file.UserError: the user's code raised an exception.
    """
    if request.form not in FORMATS:
        raise ConfigError(
            "audit.unknown-format",
            f"unknown --format {request.form!r}",
            allowed=", ".join(FORMATS),
            next_step="etrm audit --help",
        )
    try:
        known = read_baseline(request.known) if request.known else frozenset()
    except (OSError, ValueError) as error:
        raise ConfigError(
            "audit.unreadable-baseline",
            f"the file of --baseline cannot be read: {error}",
            next_step="etrm audit ... --write-baseline FILE",
        ) from error
    try:
        options: dict[str, Any] = {
            **request.audit,
            "select": request.select,
            "ignore": request.ignore,
            "baseline": known,
        }
        if request.probes:  # else those of the case
            options["probes"] = [find_probe(name) for name in request.probes]
        if request.rules:
            options["rules"] = [find_rule(name) for name in request.rules]
        found = audit_file(request.target, request.arguments, to_end=request.to_end, **options)
    except CaseError as error:
        raise ConfigError(
            "audit.bad-case",
            f"{request.target} cannot be audited",
            got=str(error),
            next_step=str(
                error.facts.get("command", "etrm audit --help, which shows a complete case")
            ),  # of a package that is missing
        ) from error
    shown: dict[str, Any] = {} if request.out else {"width": terminal_width(), "color": is_colored()}
    text = found.render(request.form, artifact_of(request.target), **shown)
    try:
        if request.out:
            request.out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(request.out, text)
        if request.learn:
            request.learn.parent.mkdir(parents=True, exist_ok=True)
            write_baseline(request.learn, found.findings)
    except OSError as error:
        raise WriteError(
            "audit.not-writable",
            f"the output cannot be written: {error}",
            next_step="name a file in a folder that you may write to",
        ) from error
    return found, text
