"""Causes in the operations of a step, and the module that each is reported for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from diagnostics.causes import Cause

Placed = tuple[Sequence[str], Cause]
"""A cause, and the modules that it is about: none if it is the step's."""


def one_owner(sources: Iterable[str], owner: Callable[[str], str]) -> str:
    """The watched module that all sources are in, "" where there are several."""
    owners = {owner(each) for each in sources}
    return owners.pop() if len(owners) == 1 else ""
