"""Findings as text for a terminal: cause and remedy under each, wrapped, in colour if wanted."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

from diagnostics.findings import Finding, Severity, ordered

PIPE_WIDTH = 80
"""Characters of a line where there is no terminal."""
_WIDEST = 100  # longer lines of running text are hard to read
_COLORS = {Severity.CRITICAL: "1;31", Severity.WARNING: "1;33", Severity.NOTE: "2"}
_MARGIN = 11  # of the text behind "remedy"


def terminal_width() -> int:
    """Characters of a line: those of the terminal, up to 100, and 80 in a pipe."""
    if not sys.stdout.isatty():
        return PIPE_WIDTH
    return min(shutil.get_terminal_size((PIPE_WIDTH, 24)).columns, _WIDEST)


def is_colored() -> bool:
    """Whether standard output is a terminal that shows colours, and NO_COLOR is not set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def to_text(findings: Iterable[Finding], *, width: int = PIPE_WIDTH, color: bool = False) -> str:
    """A paragraph per fault with cause and remedy, worst first; notes are a line each.

    Args:
        findings: Findings to print. Those of one rule with one cause are one fault.
        width: Characters of a line.
        color: Whether to use the colours of a terminal.
    """
    found = ordered(findings)
    faults = _alike(finding for finding in found if finding.severity > Severity.NOTE)
    notes = [finding for finding in found if finding.severity is Severity.NOTE]
    listed = [line for note in notes for line in _wrap("note", f"{note.rule} {note.message}", width, color)]
    counted = ", ".join(
        f"{number} {severity.label}"
        for severity in (Severity.CRITICAL, Severity.WARNING)
        if (number := sum(group[0].severity is severity for group in faults))
    )
    head = f"Faults: {counted}." if faults else "No findings above a note." if notes else "No findings."
    parts = [_paragraph(group, width, color) for group in faults]
    return "\n\n".join(filter(None, [head, *parts, "\n".join(listed)])) + "\n"


def wrap_line(text: str, width: int) -> str:
    """A sentence in lines of `width` characters; names are not broken."""
    return textwrap.fill(text, width, break_on_hyphens=False, break_long_words=False)


def _alike(findings: Iterable[Finding]) -> list[list[Finding]]:
    groups: dict[tuple[str, str, Severity], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.rule, finding.code, finding.severity), []).append(finding)
    return list(groups.values())


def _paragraph(group: Sequence[Finding], width: int, color: bool) -> str:
    first, *others = group
    code = f" [{first.code}]" if first.code else ""
    stated = code if first.states_cause else ""
    head = textwrap.wrap(
        f"{first.severity.label} {first.rule}  {first.message}{stated}", width, subsequent_indent="  "
    )
    if color:
        plain = f"{first.severity.label} {first.rule}"
        head[0] = head[0].replace(plain, _paint(plain, _COLORS[first.severity]), 1)
    lines = [*head]
    if others:
        lines += _wrap("also in", ", ".join(finding.module or "model" for finding in others), width, color)
    if not first.states_cause:
        lines += _wrap("cause", f"{first.cause}{code}", width, color)
    lines += _wrap("remedy", first.remedy, width, color)
    lines += _wrap("seen", str(first.evidence), width, color)
    if first.file:
        lines += _wrap("code", f"{first.file}:{first.line}", width, color)
    explained = _explained(group)
    if explained:
        lines += _wrap("explains", explained, width, color)
    return "\n".join(lines)


def _explained(group: Sequence[Finding]) -> str:
    """The consequences by rule, with their modules where these are others than those of the fault."""
    own = {finding.module for finding in group}
    modules: dict[str, dict[str, None]] = {}
    for each in (follows for finding in group for follows in finding.consequences):
        modules.setdefault(each.rule, {})[each.module or "model"] = None
    return "; ".join(
        rule if set(where) <= own else f"{rule} in {', '.join(where)}" for rule, where in modules.items()
    )


def _wrap(label: str, text: str, width: int, color: bool) -> list[str]:
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=f"  {label}".ljust(_MARGIN),
        subsequent_indent=" " * _MARGIN,
        break_on_hyphens=False,
        break_long_words=False,
    )
    if color and lines:
        lines[0] = f"  {_paint(label, '2')}{lines[0][2 + len(label) :]}"
    return lines


def _paint(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m"
