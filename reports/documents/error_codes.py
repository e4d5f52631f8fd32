"""``docs/errors.md``: every error code with its class, its meaning and the remedy, read from the source.

The raise sites are the only list of errors, so the page cannot name one that no code raises.
"""

from __future__ import annotations

import argparse
import ast
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import etrm
import reports
from etrm.atomic_files import write_atomically
from reports.markdown import code, escape

CODE = re.compile(r"[a-z]+\.[a-z0-9]+(-[a-z0-9]+)*")
CLASSES = {"refused": "ConfigError", "_Problem": "ConfigError"}
"""Names that make an error of another class."""
GAP = "…"
"""What stands in a message for a value of one case."""


@dataclass(frozen=True)
class Site:
    """A place in the source that makes an error.

    Attributes:
        code: the error's code.
        kind: name of its class.
        meaning: the message, with ``…`` for the values of one case.
        remedy: the next step, written the same way; empty where the message has none.
        module: path of the file, relative to the folder that holds the packages.
    """

    code: str
    kind: str
    meaning: str
    remedy: str
    module: str


def sites() -> list[Site]:
    """Every place in etrm, reports and the command line that makes an error with a code, by code."""
    root = Path(etrm.__path__[0]).parent
    packages = [Path(folder) for package in (etrm, reports) for folder in package.__path__]
    files = [*(file for package in packages for file in package.rglob("*.py")), root / "cli.py"]
    found = [site for file in files for site in _sites(file, root)]
    return sorted(found, key=lambda site: (site.code, site.module, site.meaning))


def page() -> str:
    """The page as markdown: a table for each area."""
    parts = [
        "# Error codes",
        textwrap.fill(
            "An error that a user can cause ends with exit code 2 and no traceback, and its last line names its "
            "code. A code stays the same when the message is reworded: scripts and tests compare `error.code`, and "
            f"`error.codes` where there are several problems. {GAP} stands for the values of one case. An "
            "`ArgumentError` is a mistake in a Python call, and keeps its traceback.",
            120,
        ),
        "This page is generated: `make pages`.",
    ]
    for area, of_area in groupby(sites(), key=lambda site: site.code.partition(".")[0]):
        rows = [_row(list(same)) for _, same in groupby(of_area, key=lambda site: site.code)]
        parts += [
            f"## {area}",
            "\n".join(["| code | class | message | what to do |", "|---|---|---|---|", *rows]),
        ]
    return "\n\n".join(parts) + "\n"


def _row(same: Sequence[Site]) -> str:
    meanings = dict.fromkeys(site.meaning for site in same)
    remedies = dict.fromkeys(site.remedy for site in same if site.remedy)
    cells = code(same[0].code), code(same[0].kind), "; or ".join(meanings), "; or ".join(remedies)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _sites(file: Path, root: Path) -> Iterator[Site]:
    tree = ast.parse(file.read_text("utf-8"))
    public = dict(CLASSES)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name.startswith("_") and node.bases:
            public.setdefault(node.name, _name(node.bases[0]))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (found := _code_of(node, public)) and len(node.args) > 1:
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            name = _name(node.func)
            yield Site(
                code=found,
                kind=public.get(name, name),
                meaning=_message(node.args[1]),
                remedy=_message(keywords["next_step"]) if "next_step" in keywords else "",
                module=file.relative_to(root).as_posix(),
            )


def _code_of(call: ast.Call, public: Mapping[str, str]) -> str | None:
    """The code in a call that makes an error; None of any other call."""
    name = _name(call.func)
    first = call.args[0] if call.args else None
    if not (name.endswith("Error") or name in public) or not isinstance(first, ast.Constant):
        return None
    return first.value if isinstance(first.value, str) and "." in first.value else None


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _message(node: ast.expr) -> str:
    """The words of a message in the source, in one line of markdown."""
    return escape(" ".join(_words(node).split()))


def _words(node: ast.AST) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_words(part) for part in parts)
        case ast.BinOp(left=left, op=ast.Add()):
            return _words(left)
    return GAP


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m reports.documents.error_codes", description=__doc__)
    parser.add_argument("--out", required=True, type=Path, help="the page to write")
    write_atomically(parser.parse_args(arguments).out, page())


if __name__ == "__main__":
    main()
