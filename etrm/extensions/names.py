"""Names of code: parse the three forms in which they can be written. Nothing is imported here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

FORMS = "file.py:Name, package.module:Name, or the name of an entry point"
_FILE = re.compile(r"(?P<place>.+\.py):(?P<name>[^\W\d]\w*)", re.DOTALL)
_MODULE = re.compile(r"(?P<place>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*)")


@dataclass(frozen=True)
class CodeName:
    """A name of code.

    Attributes:
        place: the absolute path of a Python file, or the dotted name of a module.
        name: the name of the object in it.
        is_file: whether the place is a file.
    """

    place: str
    name: str
    is_file: bool

    def __str__(self) -> str:
        return f"{self.place}:{self.name}"


def parse(text: str) -> CodeName | None:
    """Return a text as a name of code, with the path of a file made absolute; None if it is not a name of code.

    A text such as ``rules:colours`` looks like a module and a name, but can be another value of a setting.
    """
    if found := _FILE.fullmatch(text):
        return CodeName(str(Path(found["place"]).absolute()), found["name"], is_file=True)
    if found := _MODULE.fullmatch(text):
        return CodeName(found["place"], found["name"], is_file=False)
    return None


def absolute(text: str) -> str:
    """Return a name of code with an absolute path, so that it is valid in other folders. Other texts are unchanged."""
    code = parse(text)
    return str(code) if code is not None and code.is_file else text


def registered(kind: str) -> dict[str, metadata.EntryPoint]:
    """Return the entry points of the group ``etrm.<kind>`` in installed packages, by name."""
    return {point.name: point for point in metadata.entry_points(group=f"etrm.{kind}")}
