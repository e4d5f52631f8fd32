"""Names of code: the three ways to write one, read as text. Nothing is imported here."""

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
        place: absolute path of a Python file, or the dotted name of a module.
        name: name of the object in it.
        is_file: whether the place is a file.
    """

    place: str
    name: str
    is_file: bool

    def __str__(self) -> str:
        return f"{self.place}:{self.name}"


def parse(text: str) -> CodeName | None:
    """The name of code that a text is, a file's path made absolute; None for any other text.

    A text with the name of a module may mean something else where the setting has such words (``rules:colours``).
    """
    if found := _FILE.fullmatch(text):
        return CodeName(str(Path(found["place"]).absolute()), found["name"], is_file=True)
    if found := _MODULE.fullmatch(text):
        return CodeName(found["place"], found["name"], is_file=False)
    return None


def absolute(text: str) -> str:
    """The same name with an absolute path, so that it means the same in another folder; any other text unchanged."""
    code = parse(text)
    return str(code) if code is not None and code.is_file else text


def registered(kind: str) -> dict[str, metadata.EntryPoint]:
    """The entry points of the group ``etrm.<kind>`` by name: what installed packages offer."""
    return {point.name: point for point in metadata.entry_points(group=f"etrm.{kind}")}
