"""Copies of the installed packages: changed at one place, or at every place to note which values it has."""

from __future__ import annotations

import ast
import compileall
import difflib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etrm.errors import ArgumentError
from etrm.installation import NAMES, ROOT
from etrm.investigation.unlisted.places import (
    CodePlace,
    line_starts,
    list_functions,
    list_places,
    parse_source,
)

RUNTIME = "changed_code"
"""The module that changed code calls; it lies next to the packages of a copy."""
HOOKS = {
    ("etrm/training/trainer.py", "Trainer.__init__"): "changed_code.begin()",
    ("etrm/training/trainer.py", "Trainer.advance"): "changed_code.enter(self.state.step, self.state.bucket)",
    ("etrm/training/scoring/score_run.py", "evaluate_run"): "changed_code.begin()",
}
"""First statements of functions, from which a change knows the step of training."""


class Insertion(NamedTuple):
    """Text that is put into a file.

    Attributes:
        position: the byte before which it is put.
        order: the order of texts at the same position.
        text: the text.
    """

    position: int
    order: int
    text: str


def copy_packages(target: Path, source: Path = ROOT) -> None:
    """Copy the packages of this installation, or of another copy, with their compiled files where those are current."""
    target.mkdir(parents=True)
    for name in NAMES:
        path = source / (f"{name}.py" if (source / f"{name}.py").exists() else name)
        if path.is_dir():
            shutil.copytree(path, target / name, copy_function=_link)
        else:
            _link(path, target / path.name)
    if source == ROOT:
        compileall.compile_dir(target, quiet=1)


def change_copy(copy: Path, place: CodePlace, before: str, after: str, hooks: bool) -> str:
    """Put text around a place of a copy, and return the unified diff.

    Args:
        copy: the folder of the copy.
        place: the place.
        before, after: the texts.
        hooks: whether the change must know the step of training.
    """
    by_path = {place.path: _around(place, before, after)}
    if hooks:
        _add_hooks(copy, by_path)
    return "".join(_rewrite(copy, path, texts) for path, texts in by_path.items())


def profile_copy(copy: Path) -> list[CodePlace]:
    """Make every place of a copy note its values, and return the places in the order of the profile."""
    places = list_places(copy)
    by_path: dict[str, list[Insertion]] = {}
    for key, place in enumerate(places):
        by_path.setdefault(place.path, []).extend(_around(place, f"{RUNTIME}.seen({key}, ", ")"))
    _add_hooks(copy, by_path)
    for path, texts in by_path.items():
        _rewrite(copy, path, texts)
    return places


def read_profile(file: Path, places: Sequence[CodePlace]) -> dict[str, dict[str, Any]]:
    """Return the values that a profiled copy noted, by the keys of its places; only of places that were reached."""
    found = json.loads(file.read_text("utf-8"))
    return {place.key: found[str(key)] for key, place in enumerate(places) if str(key) in found}


def insert(source: bytes, insertions: Iterable[Insertion]) -> bytes:
    """Return a text with others in it."""
    parts, end = [], 0
    for position, _, text in sorted(insertions):
        parts += [source[end:position], text.encode()]
        end = position
    return b"".join([*parts, source[end:]])


def _around(place: CodePlace, before: str, after: str) -> list[Insertion]:
    """Insertions that nest as the expressions do: at one position, ends come first, and the longer one encloses."""
    length = place.end - place.start
    return [
        Insertion(place.start, 1_000_000_000 - length, before),
        Insertion(place.end, length - 1_000_000_000, after),
    ]


def _add_hooks(copy: Path, by_path: dict[str, list[Insertion]]) -> None:
    for (path, name), text in HOOKS.items():
        source = (copy / path).read_bytes()
        functions = dict(list_functions(parse_source(source)))
        if name not in functions:
            raise ArgumentError("bench.no-hook", f"{path} has no function {name}")
        body = functions[name].body
        first = body[1 if ast.get_docstring(functions[name]) is not None else 0]
        position = line_starts(source)[first.lineno - 1] + first.col_offset
        indented = f"{text}\n{' ' * first.col_offset}"
        by_path.setdefault(path, []).append(Insertion(position, -2_000_000_000, indented))


def _rewrite(copy: Path, path: str, insertions: list[Insertion]) -> str:
    file = copy / path
    before = file.read_bytes()
    line = b"from __future__ import annotations\n"
    begin = before.index(line) + len(line)
    after = insert(before, [*insertions, Insertion(begin, 0, f"import {RUNTIME}\n")])
    file.unlink()  # it may be a link to the file of another copy
    file.write_bytes(after)
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        compiled.unlink()
    runtime = copy / f"{RUNTIME}.py"
    if not runtime.exists():
        shutil.copyfile(Path(__file__).with_name(f"{RUNTIME}.py"), runtime)
    old, new = (text.decode().splitlines(keepends=True) for text in (before, after))
    return "".join(difflib.unified_diff(old, new, f"a/{path}", f"b/{path}"))


def _link(source: str | Path, target: str | Path) -> None:
    """Link a file, or copy it where links are not possible; its time stays, so that its compiled file is current."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
