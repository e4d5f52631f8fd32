"""Rules that the whole code base keeps: one name for one thing, and settings as values in code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("etrm", "diagnostics", "reports", "benchmarks")


def modules(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """The path of every module below some folders, and its syntax tree."""
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            if "build" not in file.relative_to(ROOT).parts:
                yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text("utf-8"))


def test_settings_are_text_at_the_command_line_alone() -> None:
    """Code changes a config by values, which a type checker reads; text is for people."""
    found = [
        path
        for path, tree in modules(*PACKAGES)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and any(name.name == "with_overrides" for name in node.names)
    ]
    allowed = ("etrm/config/", "etrm/commands/", "etrm/investigation/")
    assert [path for path in found if not path.startswith(allowed)] == []
