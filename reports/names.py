"""File names of pages and figures. They are unique, and valid on every file system."""

from __future__ import annotations

import re
from collections.abc import Iterable

from etrm.investigation.result import Result

LONGEST = 60
"""Characters of a file name, far below the 255 bytes that file systems allow."""


def slug(text: str) -> str:
    """Return a text reduced to lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:LONGEST].strip("-") or "page"


def make_unique(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Return the slugs of names, with a number added if two would be equal."""
    used, result = set(taken), []
    for name in names:
        candidate, n = slug(name), 2
        while candidate in used:
            candidate, n = f"{slug(name)}-{n}", n + 1
        used.add(candidate)
        result.append(candidate)
    return result


def order_hypotheses(result: Result) -> list[str]:
    """Return the keys of the hypotheses in the order of dependence. Keys outside this order come last."""
    named = [key for key in dict.fromkeys(result.order) if key in result.hypotheses]
    return named + sorted(set(result.hypotheses) - set(named))


def name_pages(result: Result) -> tuple[dict[str, str], list[str]]:
    """Return the page files of the hypotheses by key, and those of the experiments in their order."""
    keys = order_hypotheses(result)
    stems = make_unique([*keys, *(experiment.id for experiment in result.experiments)], taken=["index"])
    files = [f"{stem}.md" for stem in stems]
    return dict(zip(keys, files, strict=False)), files[len(keys) :]
