"""Baseline files: the findings that are known today, so that only new ones are reported.

A file is JSON: `version`, and `findings` with fingerprint, rule, module, code and cause of each, to be
read and kept in a repository. Version 1, which identified a cause by its sentence, is still read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diagnostics.errors import InvalidValue
from diagnostics.findings import Finding, fingerprint_of, ordered
from diagnostics.report.baseline_version_1 import codes_of
from diagnostics.report.whole_files import write_whole

VERSION = 2  # 1 had sentences instead of codes
_WRITE = "write it again: diagnostics.write_baseline, or etrm audit ... --write-baseline FILE"


def write_baseline(path: str | Path, findings: Iterable[Finding]) -> None:
    """Write the findings that are known today, so that a run can leave them out.

    Raises:
        OSError: The file cannot be written.
    """
    entries = [
        {
            "fingerprint": finding.fingerprint,
            "rule": finding.rule,
            "module": finding.module,
            "code": finding.code,
            "cause": finding.cause,
        }
        for finding in ordered(findings)
    ]
    text = json.dumps({"version": VERSION, "findings": entries}, indent=2)
    write_whole(path, text + "\n")


def read_baseline(path: str | Path) -> frozenset[str]:
    """The fingerprints of a baseline file, for `Monitor.findings(baseline=...)`.

    Raises:
        InvalidValue: It is not a baseline file, has a version that is not read, or names a cause of version 1 that is
            not known.
    """
    version, entries = _content(Path(path))
    found: set[str] = set()
    for number, entry in enumerate(entries):
        keys = ("fingerprint",) if version == VERSION else ("rule", "module", "cause")
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in keys):
            raise InvalidValue(
                "baseline.damaged",
                "{path}: finding {number} needs the texts {expected}, found {got!r}; {next_step}",
                path=str(path),
                number=number,
                expected=", ".join(keys),
                got=entry,
                next_step=_WRITE,
            )
        found |= {entry["fingerprint"]} if version == VERSION else _fingerprints(path, entry)
    return frozenset(found)


def _content(path: Path) -> tuple[int, list[Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidValue(
            "baseline.not-json",
            "{path} is not a baseline file: {reason}; {next_step}",
            path=str(path),
            reason=str(error),
            next_step=_WRITE,
        ) from error
    held = content if isinstance(content, dict) else {}
    version, entries = held.get("version"), held.get("findings")
    if version not in (1, VERSION) or not isinstance(entries, list):
        raise InvalidValue(
            "baseline.version",
            "{path} is not a baseline file of version 1 or {expected}, found version {got!r}; {next_step}",
            path=str(path),
            got=version,
            expected=VERSION,
            next_step=_WRITE,
        )
    return version, entries


def _fingerprints(path: str | Path, entry: dict[str, str]) -> set[str]:
    """Today's fingerprints of a finding of version 1: several if its sentence was that of several causes."""
    codes = codes_of(entry["rule"], entry["cause"])
    if not codes:
        raise InvalidValue(
            "baseline.unknown-cause",
            "{path}, of version 1, names a cause of {rule} that is not known: {got!r}; {next_step}",
            path=str(path),
            rule=entry["rule"],
            got=entry["cause"],
            next_step=_WRITE,
        )
    return {fingerprint_of(entry["rule"], entry["module"], code) for code in codes}
