"""Every stable code that a ``result.json`` can hold, collected from the modules that declare them."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from importlib import import_module
from pkgutil import walk_packages
from types import ModuleType
from typing import TypeVar

import etrm.investigation
from etrm.investigation.evidence.table import Direction
from etrm.investigation.records import Verdict
from etrm.investigation.result import CauseCode, Scenario

Kind = TypeVar("Kind")
NOT_REASONS = (CauseCode, Direction, Scenario, Verdict)


def modules() -> Iterator[ModuleType]:
    """The modules of the investigation."""
    for found in walk_packages(etrm.investigation.__path__, "etrm.investigation."):
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
