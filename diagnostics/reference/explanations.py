"""Explain a code of the toolkit, which is a rule or an error, and list all codes in groups."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from diagnostics.errors import UnknownName
from diagnostics.reference.error_catalog import Site, toolkit_sites
from diagnostics.rules.page import page
from diagnostics.rules.registry import families


@dataclass(frozen=True)
class Topic:
    """One code that can be explained.

    Attributes:
        code: The code, such as COV001 or config.unknown-setting.
        title: Meaning in one line.
        text: Function that makes the explanation, as markdown.
    """

    code: str
    title: str
    text: Callable[[], str]


Groups = dict[str, list[Topic]]
"""Topics by the heading of their group, in the order of the list."""


def toolkit_groups() -> Groups:
    """The rules, by family, and the errors of the toolkit."""
    groups: dict[str, list[Topic]] = {}
    for family in families():
        topics = groups.setdefault(f"Rules: {family.title}", [])
        topics += [Topic(rule.id, rule.title, partial(page, rule)) for rule in family.rules]
    return groups | {"Errors of the toolkit": error_topics(toolkit_sites())}


def error_topics(sites: Iterable[Site]) -> list[Topic]:
    """One topic per code.

    Args:
        sites: Raise sites, sorted by code.
    """
    topics = []
    for code, same in groupby(sites, key=lambda site: site.code):
        places = list(same)
        topics.append(Topic(code, places[0].meaning, partial(error_page, places)))
    return topics


def error_page(sites: list[Site]) -> str:
    """The explanation of an error code.

    Args:
        sites: All places that raise it.
    """
    messages = list(dict.fromkeys(site.meaning for site in sites))
    remedies = list(dict.fromkeys(site.remedy for site in sites if site.remedy))
    modules = list(dict.fromkeys(site.module for site in sites))
    parts = [
        f"# {sites[0].code}",
        f"Error of the class `{sites[0].kind}`. The code stays when the message is reworded.",
        "**Message**" + "".join(f"\n\n    {message}" for message in messages),
    ]
    if remedies:
        parts.append("**What to do**" + "".join(f"\n\n    {remedy}" for remedy in remedies))
    return "\n\n".join([*parts, f"Raised in {', '.join(f'`{module}`' for module in modules)}."]) + "\n"


def explain_code(code: str, groups: Groups) -> str:
    """The explanation of a code as markdown; a code of several groups has one after the other.

    Raises:
        UnknownName: No group has it; the error names the nearest codes.
    """
    topics = [topic for group in groups.values() for topic in group]
    found = [topic for topic in topics if topic.code.lower() == code.lower()]
    if not found:
        raise UnknownName(
            "codes.unknown",
            "nothing has the code {got!r}; nearest: {nearest}",
            got=code,
            nearest=", ".join(nearest(code, [topic.code for topic in topics])) or "none",
        )
    return "\n".join(topic.text() for topic in found)


def nearest(code: str, known: list[str]) -> list[str]:
    """At most five known codes that resemble a code, or begin with it."""
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(code.lower(), by_lower, n=5, cutoff=0.6)
    start = [each for each in by_lower if each.startswith(code.lower())]
    return [by_lower[each] for each in dict.fromkeys([*close, *start])][:5]


def list_groups(groups: Groups) -> str:
    """Every code with its title, as markdown."""
    return "\n".join(
        f"## {heading}\n\n" + "".join(f"- `{topic.code}`: {topic.title}\n" for topic in topics)
        for heading, topics in groups.items()
    )
