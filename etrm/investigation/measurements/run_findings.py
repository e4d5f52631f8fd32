"""The toolkit's findings in finished runs, grouped by what they are about."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from diagnostics import Severity

RecordedFinding = dict[str, Any]
"""A finding as ``diagnostics.findings.to_json`` writes it."""
GroupedFindings = dict[tuple[str, str], list[RecordedFinding]]
"""Findings by rule and module."""


def group_serious(records: Iterable[RecordedFinding]) -> GroupedFindings:
    """The findings above a note by rule and module, in the order in which they were first met."""
    found: GroupedFindings = {}
    for record in records:
        if record["severity"] != Severity.NOTE.label:
            found.setdefault((record["rule"], record["module"]), []).append(record)
    return found
