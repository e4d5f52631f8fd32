"""Plants a defect in a checkout of a commit, and runs the tests nearest to it until one fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.mutation.defects import Defect
from tests.affected import Imports
from tests.mirrors import PACKAGES, ROOT

MOST_FILES = 40
"""Test files that are run for a defect, as many as `make quick` runs."""
PYTEST = ("-m", "pytest", "-x", "-q", "-m", "not slow and not gpu", "-p", "no:cacheprovider")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?\.py(?:::.+?)?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a defect.

    Attributes:
        defect: the name of the defect.
        area: the area of the code base.
        file: the file in which it was planted; empty if its text is not in the code.
        state: ``caught``, ``survived``, ``out of time``, ``flaky`` (the test fails without the defect too) or
            ``not applicable``.
        test: the test that caught it.
        files: test files that depend on the defect's module; the nearest 40 at most are run.
        seconds: until it was caught.
    """

    defect: str
    area: str
    file: str
    state: str
    test: str
    files: int
    seconds: float


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A worktree of a commit, removed at the end."""
    with TemporaryDirectory(prefix="mutation-") as folder:
        path = Path(folder) / "checkout"
        _git("worktree", "add", "--detach", str(path), commit)
        try:
            yield path
        finally:
            _git("worktree", "remove", "--force", str(path))


def place_of(defect: Defect, root: Path) -> tuple[Path, str, str] | None:
    """The one file that holds the defect's text, the text and its replacement; None where there is no such file."""
    files = [
        root / "cli.py",
        *(path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))),
    ]
    sources = {path: path.read_text("utf-8") for path in files if "mutation" not in path.parts}
    for text, replacement in defect.forms:
        holding = [path for path, source in sources.items() if text in source]
        if len(holding) == 1 and sources[holding[0]].count(text) == 1:
            return holding[0].relative_to(root), text, replacement
    return None


def plant(defect: Defect, imports: Imports, limit: float) -> Outcome:
    """Plant a defect in a checkout, run the tests nearest to it until one fails, and take it out again.

    Args:
        defect: the defect.
        imports: the imports of the checkout, whose files are restored afterwards.
        limit: seconds after which the tests are ended.
    """
    root = imports.root
    place = place_of(defect, root)
    if place is None:
        return Outcome(defect.name, defect.area, "", "not applicable", "", 0, 0.0)
    file, text, replacement = place
    tests = imports.affected([file])
    chosen = [str(test) for test in tests[:MOST_FILES]]
    whole, began = (root / file).read_text("utf-8"), time.monotonic()
    try:
        _write(root / file, whole.replace(text, replacement))
        state, test = _first_failure(root, chosen, limit)
    finally:
        _write(root / file, whole)
    seconds = round(time.monotonic() - began, 1)
    if state == "caught" and _first_failure(root, [test], limit)[0] != "survived":
        state = "flaky"
    return Outcome(defect.name, defect.area, file.as_posix(), state, test, len(tests), seconds)


def _write(file: Path, text: str) -> None:
    """Write a file that no bytecode is up to date with: two edits within a second would have the same time."""
    later = int(file.stat().st_mtime) + 1
    file.write_text(text, "utf-8")
    os.utime(file, (later, later))


def _first_failure(root: Path, tests: list[str], limit: float) -> tuple[str, str]:
    """``caught`` with the test that failed, ``survived``, or ``out of time``."""
    environment = os.environ | {
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
        "ETRM_CACHE": str(root.parent / "cache"),
    }
    process = subprocess.Popen(
        [sys.executable, *PYTEST, *tests],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that the processes of the tests end with it
    )
    try:
        printed, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return "out of time", ""
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    found = _FAILED.search(printed)
    if process.returncode == 0:
        return "survived", ""
    if process.returncode in (1, 2) and found:  # 2: a test file that cannot be imported
        return "caught", found[1]
    raise RuntimeError(f"pytest ended with {process.returncode} and names no test:\n{printed[-2000:]}")


def _git(*words: str) -> None:
    subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True)
