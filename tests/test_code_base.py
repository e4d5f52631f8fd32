"""Rules that the whole code base keeps: one name for one thing, and settings as values in code."""

from __future__ import annotations

import ast
import itertools
import re
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

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


class Module(NamedTuple):
    """What the rules ask of a module.

    Attributes:
        path: its path below the root.
        setting_texts: whether it changes a config by texts.
        classes: the names of its classes.
        bare: its constants at the top that are numbers without a reason.
    """

    path: str
    setting_texts: bool
    classes: list[str]
    bare: list[str]


@cache
def modules() -> list[Module]:
    """Every module of the packages and of the tests; each is parsed once for all rules."""
    found = []
    for folder in (*PACKAGES, "tests"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if "build" not in file.relative_to(ROOT).parts:
                source = file.read_text("utf-8")
                tree = ast.parse(source)
                nodes = [*ast.walk(tree)]
                found.append(
                    Module(
                        file.relative_to(ROOT).as_posix(),
                        any(map(has_setting_texts, nodes)),
                        [node.name for node in nodes if isinstance(node, ast.ClassDef)],
                        find_bare_numbers(tree, source.split("\n")),
                    )
                )
    return found


def test_settings_are_text_at_the_command_line_alone() -> None:
    """Code changes a config by values, which a type checker reads; text is for people."""
    found = {module.path for module in modules() if module.setting_texts}
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
    for module in modules():
        if not module.path.startswith("tests/"):
            for name in module.classes:
                found[name.lstrip("_")].append(module.path)
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_no_two_files_of_a_package_have_the_same_name() -> None:
    found = defaultdict(list)
    for path in (module.path for module in modules()):
        folder, name = path.partition("/")[0], Path(path).name
        if folder != "tests" and not name.startswith("__"):
            found[folder, name].append(path)
    assert {key: paths for key, paths in found.items() if len(paths) > 1} == {}


def test_a_package_lists_modules_that_it_has() -> None:
    """The docstring of a large package is its map: `` - `module`: what it is for``."""
    listed = 0
    for path in (Path(module.path) for module in modules()):
        if path.name == "__init__.py":
            words = ast.get_docstring(ast.parse((ROOT / path).read_text("utf-8"))) or ""
            entries = [line for line in words.splitlines() if line.startswith("- `")]
            for name in re.findall(r"(?<!:)`([a-z0-9_.]+)`", "".join(entries)):
                place = (ROOT / path).parent.joinpath(*name.split("."))
                listed += 1
                assert place.is_dir() or place.with_suffix(".py").is_file(), f"{path}: {name}"
    assert listed > 50


def test_every_number_has_its_reason_next_to_it() -> None:
    """A constant at the top of a module has a comment or a docstring: what it is, and where it comes from."""
    shown = ("etrm/", "diagnostics/", "reports/")
    assert [(m.path, name) for m in modules() for name in m.bare if m.path.startswith(shown)] == []


def find_bare_numbers(tree: ast.Module, lines: list[str]) -> list[str]:
    """The names of a module's constants that are numbers and have neither a comment nor a docstring."""
    bare = []
    for statement, following in itertools.pairwise([*tree.body, ast.Pass()]):
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or not is_number(statement.value):
            continue
        target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
        docstring = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        own = "".join(lines[statement.lineno - 1 : statement.end_lineno])
        comment = "#" in own or lines[statement.lineno - 2].startswith("#")
        if isinstance(target, ast.Name) and target.id.isupper() and not (docstring or comment):
            bare.append(target.id)
    return bare


def is_number(value: ast.expr | None) -> bool:
    """Whether an expression is a number, or a tuple of numbers."""
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    parts = [part.operand if isinstance(part, ast.UnaryOp) else part for part in parts]
    return all(isinstance(part, ast.Constant) and type(part.value) in (int, float) for part in parts)


def test_the_toolkit_alone_has_all_of_its_packages() -> None:
    """Its own `pyproject.toml` lists them one by one, since its root is the package itself."""
    project = tomllib.loads((ROOT / "diagnostics/pyproject.toml").read_text("utf-8"))
    there = (file.parent.relative_to(ROOT) for file in (ROOT / "diagnostics").rglob("__init__.py"))
    packages = {".".join(folder.parts) for folder in there if "build" not in folder.parts}
    assert set(project["tool"]["setuptools"]["packages"]) == packages
