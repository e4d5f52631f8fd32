"""The toolkit's findings in finished runs, grouped by what they are about."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diagnostics import Severity
from etrm.checkpoints.run_folder import read_findings
from etrm.investigation.result import Run

Record = dict[str, Any]
"""A finding as ``diagnostics.findings.to_json`` writes it."""
Grouped = dict[tuple[str, str], list[Record]]
"""Findings by rule and module."""


def written(root: Path, runs: Iterable[Run]) -> list[Record]:
    """What the runs' monitors wrote down.

    Raises:
        RunFolderError: a file is damaged.
    """
    return [record for run in runs for record in read_findings(root / run.folder)]


def serious(records: Iterable[Record]) -> Grouped:
    """Those above a note, by rule and module, in the order in which they were first met."""
    found: Grouped = {}
    for record in records:
        if record["severity"] != Severity.NOTE.label:
            found.setdefault((record["rule"], record["module"]), []).append(record)
    return found
