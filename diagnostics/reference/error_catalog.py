"""The errors that code can raise, read from the source: code, class, message and next step of each raise site.

The raise sites are the only list of errors, so nothing can be listed that no code raises.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

GAP = "…"
"""Replaces a value of one case in a message."""


@dataclass(frozen=True)
class Site:
    """A place in the source that makes an error.

    Attributes:
        code: Code of the error.
        kind: Name of its class.
        meaning: The message, with its fields in braces, or `…` for the values of one case.
        remedy: The next step, written the same way; "" where the message has none.
        module: Path of the file, relative to the folder that holds the packages.
    """

    code: str
    kind: str
    meaning: str
    remedy: str
    module: str


def read_sites(files: Iterable[Path], root: Path, kind_of: Callable[[str], str | None]) -> list[Site]:
    """Every place in the files that makes an error with a literal code, by code.

    Args:
        files: Python files.
        root: Folder that the paths of the sites are relative to.
        kind_of: Function from the name of what is called to the class of the error, None for another call. Classes
            that a file defines for itself, with a leading underscore, count as their base.
    """
    found = [site for file in files for site in _sites(file, root, kind_of)]
    return sorted(found, key=lambda site: (site.code, site.module, site.meaning))


@cache
def toolkit_sites() -> tuple[Site, ...]:
    """The errors of the toolkit, by code; read from its source once in a process."""
    package = Path(__file__).parents[1]
    kinds = {
        "CaseError",
        "InvalidType",
        "InvalidValue",
        "NothingRecorded",
        "UnknownName",
        "UserError",
        "WrongOrder",
    }
    files = (file for file in package.rglob("*.py") if "build" not in file.relative_to(package).parts)
    return tuple(read_sites(files, package.parent, lambda name: name if name in kinds else None))


def _sites(file: Path, root: Path, kind_of: Callable[[str], str | None]) -> Iterator[Site]:
    nodes = [*ast.walk(ast.parse(file.read_text("utf-8")))]
    private = {
        node.name: _name(node.bases[0])
        for node in nodes
        if isinstance(node, ast.ClassDef) and node.name.startswith("_") and node.bases
    }
    for node in nodes:
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        name = _name(node.func)
        kind = kind_of(name) or kind_of(private.get(name, ""))
        code = node.args[0]
        if kind and isinstance(code, ast.Constant) and isinstance(code.value, str) and "." in code.value:
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            yield Site(
                code=code.value,
                kind=kind,
                meaning=_message(node.args[1]),
                remedy=_message(keywords["next_step"]) if "next_step" in keywords else "",
                module=file.relative_to(root).as_posix(),
            )


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _message(node: ast.expr) -> str:
    """The words of a message in the source, in one line."""
    return re.sub(f"{GAP}+", GAP, " ".join(_words(node).split()))


def _words(node: ast.AST) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_words(part) for part in parts)
        case ast.BinOp(left=left, op=ast.Add()):
            return _words(left)
    return GAP
