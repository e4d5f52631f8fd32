"""The places of the code that can be changed: expressions and calls in functions of the step, loader and evaluator."""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from etrm.investigation.unlisted.stages import STAGES, StageRow, find_row

NOT_VALUES = (
    ast.JoinedStr,
    ast.Lambda,
    ast.Starred,
    ast.GeneratorExp,
    ast.NamedExpr,
    ast.Await,
    ast.Yield,
    ast.YieldFrom,
    ast.Slice,
    ast.FormattedValue,
)
"""Expressions that cannot be the argument of a call, or have no value of their own."""
NOT_ENTERED = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Lambda, ast.FunctionDef, ast.ClassDef, ast.Import)
"""Nodes whose inside is no place: errors, texts, and functions of their own."""

_PARSING = threading.Lock()
"""`ast.parse` of Python 3.11 fails at random in two threads at once."""


@dataclass(frozen=True)
class CodePlace:
    """An expression or a call that can be changed.

    Attributes:
        path: the file, relative to the folder of the packages.
        function: the qualified name of the function.
        text: the expression.
        statement: the statement that it is in.
        number: the number of places with the same text that come before it in the function.
        role: ``value`` of an expression, ``unpacked`` if several names take it, or ``call`` of a statement that is one.
        row: the row of the table of stages.
        start, end: the bytes of the file.
        line: the line of the file, from 1.
    """

    path: str
    function: str
    text: str
    statement: str
    number: int
    role: str
    row: StageRow
    start: int
    end: int
    line: int

    @cached_property
    def key(self) -> str:
        """What stays the same when other code of the file changes."""
        return "|".join((self.path, self.function, self.role, " ".join(self.text.split()), str(self.number)))


def list_places(root: Path) -> list[CodePlace]:
    """List all places of the packages in a folder, in the order of files and lines."""
    return [place for path in sorted({row.path for row in STAGES}) for place in _of_file(root, path)]


def parse_source(source: bytes) -> ast.Module:
    """Parse a file, in one thread at a time."""
    with _PARSING:
        return ast.parse(source)


def _of_file(root: Path, path: str) -> tuple[CodePlace, ...]:
    file = root / path
    return _of_source(path, file.read_bytes()) if file.exists() else ()  # no file: of another version


@lru_cache(maxsize=256)
def _of_source(path: str, source: bytes) -> tuple[CodePlace, ...]:
    """The places of a file with this content: most files of a changed copy are those of the unchanged one."""
    return tuple(_find_places(path, source))


def _find_places(path: str, source: bytes) -> Iterator[CodePlace]:
    starts = line_starts(source)

    def span(node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    for function, node in list_functions(parse_source(source)):
        counts: dict[tuple[str, str], int] = {}
        for statement, expression, role in _expressions(node):
            start, end = span(expression)
            first, last = span(statement)
            body = getattr(statement, "body", None)
            whole = source[first : span(body[0])[0] if body else last].decode()
            text = source[start:end].decode()
            row = find_row(path, function, text, whole)
            if row is None:
                continue
            number = counts.get((role, text), 0)
            counts[role, text] = number + 1
            yield CodePlace(path, function, text, whole, number, role, row, start, end, expression.lineno)


def line_starts(source: bytes) -> list[int]:
    """Return the position of the first byte of every line, and that after the last one."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


def list_functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """List the functions in a module with their qualified names, functions inside of others included."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            name = f"{prefix}{child.name}"
            if isinstance(child, ast.FunctionDef):
                yield name, child
            yield from list_functions(child, f"{name}.")


def _expressions(function: ast.FunctionDef) -> Iterator[tuple[ast.stmt, ast.expr, str]]:
    """The statement, the expression and the role of every place of a function."""
    for statement in _statements(function.body):
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            yield statement, statement.value, "call"
            inside: list[ast.AST] = [*statement.value.args, *(k.value for k in statement.value.keywords)]
        elif isinstance(statement, ast.Expr):  # a docstring
            continue
        else:
            targets = [*getattr(statement, "targets", ()), getattr(statement, "target", None)]
            inside = [
                child
                for child in ast.iter_child_nodes(statement)
                if isinstance(child, ast.expr | ast.withitem) and child not in targets
            ]
        unpacked = (
            statement.value
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Tuple)
            else None
        )
        for child in inside:
            for expression in _values(child, getattr(statement, "annotation", None)):
                yield statement, expression, "unpacked" if expression is unpacked else "value"


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, NOT_ENTERED):
            continue
        yield statement
        for name in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(statement, name, []))
        for case in getattr(statement, "cases", []):
            yield from _statements(case.body)


def _values(node: ast.AST, skipped: ast.AST | None) -> Iterator[ast.expr]:
    """The expressions in a node whose value is read, from the outside in."""
    if isinstance(node, NOT_ENTERED) or node is skipped:
        return
    if isinstance(node, ast.expr) and not isinstance(node, NOT_VALUES) and _is_read(node):
        yield node
    for name, field in ast.iter_fields(node):
        if isinstance(node, ast.Call) and name == "func":
            # The function itself is no value, but the object of a method is.
            if isinstance(field, ast.Attribute) and not isinstance(field.value, ast.Name):
                yield from _values(field.value, skipped)
            continue
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST):
                yield from _values(child, skipped)


def _is_read(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float)
    if isinstance(node, ast.Attribute) and node.attr == "shape":
        return False
    if isinstance(node, ast.Tuple):  # it may have no parentheses, and its items are places
        return False
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super":
        return False
    return isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
