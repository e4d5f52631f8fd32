"""The position of a hypothesis relative to the others: root cause, downstream of it, explained, or only a lead."""

from __future__ import annotations

from typing import Literal

from etrm.investigation.result import Result
from etrm.investigation.root_cause import explanation, is_left_out
from reports.markdown import plain

Upstream = Literal["root cause", "downstream", "clear"]


def place(result: Result, key: str) -> Upstream:
    """Return the position of a hypothesis relative to the root cause, in the order of dependence."""
    cause = result.root_cause
    if cause == key:
        return "root cause"
    if cause in result.order and key in result.order and result.order.index(cause) < result.order.index(key):
        return "downstream"
    return "clear"


def explained_by(result: Result, key: str) -> str | None:
    """Return the hypothesis that explains this one, or None."""
    return explanation(result.hypotheses[key], result.hypotheses)


def is_selected(result: Result, key: str) -> bool:
    """Return whether the user selected a hypothesis; one that the result does not list counts as selected."""
    return key not in result.hypotheses or not is_left_out(result.hypotheses[key])


def marks(result: Result, key: str) -> str:
    """Return the qualifications of a verdict as plain text, such as ``(screening, candidate)``, or an empty text."""
    hypothesis, other = result.hypotheses[key], explained_by(result, key)
    found = ["screening"] if hypothesis.screening else []
    found += ["candidate"] if hypothesis.candidate else []
    if other is not None:
        found.append(f"{'' if is_selected(result, other) else 'perhaps '}explained by {plain(other)}")
    return f"({', '.join(found)})" if found else ""
