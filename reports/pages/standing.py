"""Where a hypothesis stands among the others: root cause, behind it, explained, or only a lead."""

from __future__ import annotations

from typing import Literal

from etrm.investigation.result import Result, explanation
from reports.markdown import plain

Upstream = Literal["root cause", "behind", "clear"]


def place(result: Result, key: str) -> Upstream:
    """Where a hypothesis stands against the root cause, in the order of dependence."""
    cause = result.root_cause
    if cause == key:
        return "root cause"
    if cause in result.order and key in result.order and result.order.index(cause) < result.order.index(key):
        return "behind"
    return "clear"


def explained_by(result: Result, key: str) -> str | None:
    """The hypothesis that explains this one."""
    return explanation(result.hypotheses[key], result.hypotheses)


def marks(result: Result, key: str) -> str:
    """What has to stand beside a verdict, as plain text: ``(screening, candidate)`` and the like, or nothing."""
    hypothesis, other = result.hypotheses[key], explained_by(result, key)
    found = ["screening"] if hypothesis.screening else []
    found += ["candidate"] if hypothesis.candidate else []
    found += [f"explained by {plain(other)}"] if other is not None else []
    return f"({', '.join(found)})" if found else ""
