"""Rules that the whole code base keeps: one name for one thing, and settings as values in code."""

from __future__ import annotations

import ast
import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("etrm", "diagnostics", "reports", "benchmarks")
ABOUT_SETTING_TEXTS = (
    "etrm/config/",
    "etrm/commands/",
    "tests/config/",
    "tests/commands/",
    "tests/reports/",  # the source of a setting, and what a command line would repeat
    "tests/extending/",  # the examples of the documents, as a user writes them
    "tests/extensions/",  # code from outside may run where a command line names it
    "tests/training/test_named_code.py",
)
"""Code and tests that are about settings as text."""


def modules(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """The path of every module below some folders, and its syntax tree."""
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            if "build" not in file.relative_to(ROOT).parts:
                yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text("utf-8"))


def test_settings_are_text_at_the_command_line_alone() -> None:
    """Code changes a config by values, which a type checker reads; text is for people."""
    found = {
        path
        for path, tree in modules(*PACKAGES, "tests")
        for node in ast.walk(tree)
        if has_setting_texts(node)
    }
    assert {path for path in found if not path.startswith(ABOUT_SETTING_TEXTS)} == set()


def has_setting_texts(node: ast.AST) -> bool:
    """Whether a node imports `with_overrides`, or passes texts that are written there: `load(overrides=("a.b=1",))`."""
    if isinstance(node, ast.ImportFrom):
        return any(name.name == "with_overrides" for name in node.names)
    return (
        isinstance(node, ast.keyword)
        and node.arg == "overrides"
        and any(isinstance(part, (ast.Constant, ast.JoinedStr)) for part in ast.walk(node.value))
    )


def test_no_two_classes_have_the_same_name() -> None:
    """A leading underscore does not tell two names apart: a reader who meets `_Group` thinks of `Group`."""
    found = defaultdict(list)
    for path, tree in modules(*PACKAGES):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name.lstrip("_")].append(path)
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_no_two_files_of_a_package_have_the_same_name() -> None:
    found = defaultdict(list)
    for path, _ in modules(*PACKAGES):
        name = Path(path).name
        if not name.startswith("__"):
            found[path.partition("/")[0], name].append(path)
    assert {key: paths for key, paths in found.items() if len(paths) > 1} == {}


def test_every_number_has_its_reason_beside_it() -> None:
    """A constant at the top of a module has a comment or a docstring: what it is, and where it comes from."""
    bare = []
    for path, tree in modules("etrm", "diagnostics", "reports"):
        lines = (ROOT / path).read_text("utf-8").split("\n")
        for statement, following in itertools.pairwise([*tree.body, ast.Pass()]):
            if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or not is_number(statement.value):
                continue
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            docstring = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            own = "".join(lines[statement.lineno - 1 : statement.end_lineno])
            comment = "#" in own or lines[statement.lineno - 2].startswith("#")
            if isinstance(target, ast.Name) and target.id.isupper() and not (docstring or comment):
                bare.append(f"{path}: {target.id}")
    assert bare == []


def is_number(value: ast.expr | None) -> bool:
    """Whether an expression is a number, or a tuple of numbers."""
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    parts = [part.operand if isinstance(part, ast.UnaryOp) else part for part in parts]
    return all(isinstance(part, ast.Constant) and type(part.value) in (int, float) for part in parts)
