"""The tests that a change can break, nearest first: `make quick` runs as many of them as fit into a minute.

A test file is as near to a change as the shortest chain of imports between the two. The file that is named for the
changed module comes first, then the files that import it, then those that import what imports it, and so on; of equally
near ones, those of the same folder come first.

    python -m tests.affected                      # list them
    python -m tests.affected --run --seconds 25   # run them; further options go to pytest
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.mirrors import PACKAGES, ROOT, mirrored

MOST_FILES = 20
"""Test files that are run: collecting all of them takes 10 seconds of the minute, and the far ones rarely fail."""


def changed_files(since: str | None = None) -> list[Path]:
    """Files that differ from a commit, untracked files included; relative to the repository.

    Args:
        since: the commit; without one it is where this branch left `main`.
    """
    since = since or _left_main()
    names = _git("diff", "--name-only", since) + "\n" + _git("ls-files", "--others", "--exclude-standard")
    return [Path(name) for name in dict.fromkeys(names.split("\n")) if name]


class Imports:
    """Which module imports which, of a checkout; read from the sources, so imports inside functions count.

    A test file imports the conftests above it. A package that loads its modules by name (``import_module``) imports
    all of them.

    Args:
        root: the folder of the checkout.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        folders = [root / name for name in (*PACKAGES, "tests")]
        found = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
        self.sources = [Path("cli.py"), *(path.relative_to(root) for path in found)]
        self.tests = [path for path in self.sources if path.parts[0] == "tests" and path.match("test_*.py")]
        self._known = set(map(_module, self.sources))
        self.importers: dict[str, set[str]] = defaultdict(set)
        """The modules that import a module, by its name."""
        for path in self.sources:
            for name in self._imported(path):
                self.importers[name].add(_module(path))

    def affected(self, changed: Iterable[Path]) -> list[Path]:
        """Test files that depend on a changed file, nearest first; paths are relative to the checkout."""
        changed = list(changed)
        near = self._distances([_module(path) for path in changed if path.suffix == ".py"])
        found = {test: near[_module(test)] for test in self.tests if _module(test) in near}
        for path in changed:
            if path.suffix != ".py":
                found |= {test: min(1, found.get(test, 1)) for test in self._tests_that_name(path)}
        named = {test for test in self.tests if mirrored(test, self.root) in changed}
        found |= dict.fromkeys(named, 0)  # also one that imports nothing of it, because it starts processes
        beside = {_folder_of_tests(path) for path in changed}
        return sorted(
            found, key=lambda test: (test not in named, found[test], test.parent not in beside, test)
        )

    def _imported(self, path: Path) -> Iterator[str]:
        text = (self.root / path).read_text("utf-8")
        for node in _statements(ast.parse(text)):
            if isinstance(node, ast.Import):
                yield from self._modules([alias.name for alias in node.names])
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from self._modules([f"{node.module}.{alias.name}" for alias in node.names])
        if path.parts[0] == "tests":
            yield from self._modules([_module(folder / "conftest.py") for folder in path.parents[:-1]])
        elif path.name == "__init__.py" and "import_module(" in text:
            package = _module(path)
            yield from (name for name in self._known if name.rpartition(".")[0] == package)

    def _modules(self, names: Iterable[str]) -> Iterator[str]:
        """The modules of this checkout among some dotted names, each the longest part of one."""
        for name in names:
            while name and name not in self._known:
                name = name.rpartition(".")[0]
            if name:
                yield name

    def _distances(self, modules: Iterable[str]) -> dict[str, int]:
        """Imports between each module that depends on one of `modules` and the nearest of these."""
        found = dict.fromkeys(modules, 0)
        front = list(found)
        while front:
            reached = {importer: found[module] + 1 for module in front for importer in self.importers[module]}
            front = [module for module in reached if module not in found]
            found = reached | found
        return found

    def _tests_that_name(self, path: Path) -> list[Path]:
        """For a file that is not Python: the test files whose text names it."""
        return [test for test in self.tests if path.name in (self.root / test).read_text("utf-8")]


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements in a node. Imports are statements, and expressions are most of a file."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, name, ()):
            yield child
            yield from _statements(child)


def _folder_of_tests(path: Path) -> Path:
    """Where the tests that mirror a folder's files are."""
    return Path("tests", *path.parent.parts[path.parts[0] == "etrm" :])


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _left_main() -> str:
    """Where this branch left `main`; the last commit where there is no such branch, as on a runner of CI."""
    try:
        return _git("merge-base", "HEAD", "main")
    except subprocess.CalledProcessError:
        return "HEAD"


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.affected", description="tests that a change can break"
    )
    parser.add_argument("--since", help="the commit to compare with (default: where this branch left main)")
    parser.add_argument("--run", action="store_true", help="run the tests; further options go to pytest")
    options, further = parser.parse_known_args()
    changed = changed_files(options.since)
    tests = Imports().affected(changed)
    print(
        f"{len(changed)} changed files, {len(tests)} affected test files; the nearest {MOST_FILES} at most:"
    )
    print("\n".join(f"  {test}" for test in tests[:MOST_FILES]), flush=True)
    if not (tests and options.run):
        return 0
    command = [sys.executable, "-m", "pytest", *further, *map(str, tests[:MOST_FILES])]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
