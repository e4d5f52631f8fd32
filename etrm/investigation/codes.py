"""Every stable code that a ``result.json`` can hold, as the page of the documentation that lists them.

``python -m etrm.investigation.codes`` prints it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from importlib import import_module
from pkgutil import walk_packages
from types import ModuleType
from typing import TypeVar

import etrm.investigation
from etrm.investigation.evidence.table import Direction, Instrument, Metric
from etrm.investigation.records import Verdict
from etrm.investigation.result import CauseCode, Scenario

Kind = TypeVar("Kind")
NOT_REASONS = (CauseCode, Direction, Scenario, Verdict)
INTRODUCTION = """\
# Codes in a result

A `result.json` names everything in words, for people, and by a stable code, for programs: rows of evidence
(`code`, with `item` where a table has several rows of a metric), instrument checks (`code`), and the reasons of a
verdict, of a control and of an experiment (`codes`). Words may change between versions; codes do not, unless
`schema_version` does. `etrm diff` finds a row again by its code and item.

This page is generated: `make pages`."""


def modules() -> Iterator[ModuleType]:
    """The modules of the investigation."""
    for found in walk_packages(etrm.investigation.__path__, "etrm.investigation."):
        if found.name != "etrm.investigation.codes":  # which may be running as __main__
            yield import_module(found.name)


def declared(kind: type[Kind]) -> list[Kind]:
    """What the modules declare of a kind, each once, in the order of the modules."""
    found = {
        id(value): value for module in modules() for value in vars(module).values() if isinstance(value, kind)
    }
    nested = (
        value
        for module in modules()
        for table in vars(module).values()
        if isinstance(table, dict)
        for value in table.values()
        if isinstance(value, kind)
    )
    return list((found | {id(value): value for value in nested}).values())


def reasons() -> list[str]:
    """Codes of the reasons."""
    enums = [
        value
        for module in modules()
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, StrEnum) and value.__module__ == module.__name__
    ]
    return [code.value for enum in enums if enum not in NOT_REASONS for code in enum if "." in code.value]


def page() -> str:
    """The page as markdown."""
    metrics = [
        f"| `{m.code}` | {m.words.format(item='…')} | {m.direction} |"
        for m in sorted(declared(Metric), key=lambda m: m.code)
    ]
    checks = [f"| `{c.code}` | {c.words} |" for c in sorted(declared(Instrument), key=lambda c: c.code)]
    return "\n".join(
        [
            INTRODUCTION,
            "",
            "## Root cause (`cause_code`)",
            "",
            *(f"- `{code}`" for code in CauseCode),
            "",
            "## Reasons (`codes`)",
            "",
            *(f"- `{code}`" for code in sorted(reasons())),
            "",
            "## Rows of evidence (`code`)",
            "",
            "| code | measures | healthy (`direction`) |",
            "| --- | --- | --- |",
            *metrics,
            "",
            "## Instrument checks (`code`)",
            "",
            "| code | must hold |",
            "| --- | --- |",
            *checks,
            "",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(page())
