"""The same runs with the code of an earlier commit, as the base of ratios."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.performance.training import earlier_steps
from etrm.config import Config

COMMIT = "aa7834e"
"""The first state that was measured on a GPU."""
FOLDER = "ETRM_EARLIER_CODE"
"""The environment variable with a folder of its files, for a machine without the repository."""
ROOT = Path(__file__).parents[3]


def measure_earlier(config: Config, seconds: float) -> dict[str, Any]:
    """Time the steps of a config with the earlier code.

    Returns:
        the numbers of :func:`benchmarks.performance.training.earlier_steps.measure`.
    """
    with earlier_code() as folder:
        return run_steps(config, seconds, folder)


@contextmanager
def earlier_code() -> Iterator[Path]:
    """A context with the folder of the earlier code: the given one, or a temporary one filled by git."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(os.environ.get(FOLDER) or extract_commit(Path(made)))


def run_steps(config: Config, seconds: float, folder: Path) -> dict[str, Any]:
    """Time the steps of a config with the code of a folder, in a process of its own."""
    given = {"settings": config.model_dump(mode="json"), "seconds": seconds}
    environment = os.environ | {"PYTHONPATH": str(folder.absolute())}
    printed = subprocess.run(
        [sys.executable, "-P", earlier_steps.__file__],
        input=json.dumps(given),
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    if Path(found["code"]).resolve() != folder.resolve():
        raise RuntimeError(f"the code of {found['code']} was measured, not that of {folder}")
    return found


def extract_commit(folder: Path, commit: str = COMMIT) -> Path:
    """Write the packages of a commit of this repository into a folder, and return it."""
    archive = subprocess.run(
        ["git", "archive", commit, "etrm", "diagnostics"], cwd=ROOT, check=True, stdout=subprocess.PIPE
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder
