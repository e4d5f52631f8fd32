"""The tests that a change can break, nearest first: `make quick` runs as many of them as fit into a minute.

A test file is as near to a change as the shortest chain of imports between the two. The file that is named for the
changed module comes first, then the files that import it, then those that import what imports it, and so on; of equally
near ones, those of the same folder come first.

    python -m tests.affected                      # list them
    python -m tests.affected --run --seconds 35   # run them; further options go to pytest
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import grimp

from tests.mirrors import PACKAGES, ROOT, mirrored

Importers = dict[str, set[str]]
"""The modules that import a module, by its name."""

MOST_FILES = 40
"""Test files that are run: collecting all of them takes 10 seconds of the minute, and the far ones rarely fail."""


def changed_files(since: str | None = None) -> list[Path]:
    """Files that differ from `since`, untracked files included; relative to the repository.

    Args:
        since: a commit; without one it is where this branch left `main`.
    """
    since = since or _left_main()
    names = _git("diff", "--name-only", since) + "\n" + _git("ls-files", "--others", "--exclude-standard")
    return [Path(name) for name in dict.fromkeys(names.split("\n")) if name]


def affected(changed: Iterable[Path]) -> list[Path]:
    """Test files that depend on a changed file, nearest first; relative to the repository."""
    changed = list(changed)
    importers = _importers()
    near = _distances([_module(path) for path in changed if path.suffix == ".py"], importers)
    found = {test: near[_module(test)] for test in _test_files() if _module(test) in near}
    for path in changed:
        if path.suffix != ".py":
            found |= {test: min(1, found.get(test, 1)) for test in _tests_that_name(path)}
    named = {test for test in found if mirrored(test) in changed}
    beside = {_folder_of_tests(path) for path in changed}
    return sorted(found, key=lambda test: (test not in named, found[test], test.parent not in beside, test))


def _importers() -> Importers:
    """The imports of the packages, of `cli.py` and of the tests; a file imports the conftests above it.

    A package that loads its modules by name (``import_module``) is taken to import all of them.
    """
    graph = grimp.build_graph(*PACKAGES, cache_dir=str(ROOT / ".import_linter_cache"))
    loaders = {_module(path) for path in _packages() if "import_module(" in (ROOT / path).read_text("utf-8")}
    found: Importers = defaultdict(set)
    for module in graph.modules:
        found[module] |= graph.find_modules_that_directly_import(module)
        package = module.rpartition(".")[0]
        if package in loaders:
            found[module].add(package)
    sources = [Path("cli.py"), *_relative((ROOT / "tests").rglob("*.py"))]
    known = {*graph.modules, *map(_module, sources)}
    for path in sources:
        for name in _imported(path, known):
            found[name].add(_module(path))
    return found


def _packages() -> list[Path]:
    return [path for package in PACKAGES for path in _relative((ROOT / package).rglob("__init__.py"))]


def _imported(path: Path, known: set[str]) -> Iterator[str]:
    """The known modules that a file imports, anywhere in it, and the conftests that pytest loads for it."""
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name:
                yield name
    if path.parts[0] == "tests":
        yield from (name for folder in path.parents if (name := _module(folder / "conftest.py")) in known)


def _distances(modules: Iterable[str], importers: Importers) -> dict[str, int]:
    """Imports between each module that depends on one of `modules` and the nearest of these."""
    found = dict.fromkeys(modules, 0)
    front = list(found)
    while front:
        found_now = {importer: found[module] + 1 for module in front for importer in importers[module]}
        front = [module for module in found_now if module not in found]
        found = found_now | found
    return found


def _folder_of_tests(path: Path) -> Path:
    """Where the tests that mirror a folder's files are."""
    return Path("tests", *path.parent.parts[path.parts[0] == "etrm" :])


def _tests_that_name(path: Path) -> list[Path]:
    """For a file that is not Python: the test files whose text names it."""
    return [test for test in _test_files() if path.name in (ROOT / test).read_text("utf-8")]


def _test_files() -> list[Path]:
    return _relative((ROOT / "tests").rglob("test_*.py"))


def _relative(paths: Iterable[Path]) -> list[Path]:
    return [path.relative_to(ROOT) for path in sorted(paths)]


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
    tests = affected(changed)
    print(
        f"{len(changed)} changed files, {len(tests)} affected test files; the nearest {MOST_FILES} at most:",
        flush=True,
    )
    print("\n".join(f"  {test}" for test in tests[:MOST_FILES]), flush=True)
    if not (tests and options.run):
        return 0
    command = [sys.executable, "-m", "pytest", *further, *map(str, tests[:MOST_FILES])]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
