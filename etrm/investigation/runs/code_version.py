"""Which code makes the numbers: a hash of this project's files, and of code that a user passes in from outside.

The hash is that of the code as this process loaded it. A worker starts later and loads what the files hold then, so it
compares its hash with that of the process that started it (:func:`etrm.investigation.runs.jobs.work`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import diagnostics
import etrm
from etrm.config import Config
from etrm.extensions import outside_digests
from etrm.training.named_code import seams

PACKAGES: Mapping[str, Path] = {
    "diagnostics": Path(diagnostics.__file__).parent,
    "etrm": Path(etrm.__file__).parent,
}
"""Every file in them counts unless it is listed below. `cli` and `reports` are not among them: they turn options into
a config and results into text, and an import contract keeps both out of these packages."""

ONLY_RENDER = ("etrm/commands",)
"""Files and folders of the packages that change no run and no verdict: commands choose settings, which are in the
key themselves, and print."""

ONLY_JUDGE = tuple(
    f"etrm/investigation/{name}"
    for name in (
        "hypotheses",
        "measurements",
        "comparison",
        "experiments",
        "runs/background_job.py",
        "runs/budget.py",
        "runs/zero_weights.py",
        "evidence",
        "codes.py",
        "controls.py",
        "course_watch.py",
        "decision_order.py",
        "fault_benchmark.py",
        "folder_claim.py",
        "judgement.py",
        "original_solver.py",
        "own_model",
        "planned_runs.py",
        "recorded_run",
        "reference_comparison",
        "reference_verdict.py",
        "session.py",
        "announced_verdicts.py",
        "result.py",
        "root_cause.py",
        "run.py",
        "unlisted",
    )
)
"""Files that choose configs and read finished runs. A run's config is part of its key, and the process that trains it
imports none of them (a test looks), so an edit of a verdict's rule keeps the runs that it is about."""


def code_hash(config: Config) -> str:
    """Hash of the code that the numbers of a run of this config depend on, code from outside the packages included.

    Raises:
        ConfigError: a fault is not known.
    """
    return _with_outside_code(_loaded((*ONLY_RENDER, *ONLY_JUDGE)), config)


def judging_hash(*configs: Config, judges: Iterable[object] = ()) -> str:
    """Hash of the code that verdicts about these configs depend on: that of their runs, and of the rules.

    Args:
        configs: the configs of the runs.
        judges: functions and classes that judge the runs, whose code from outside the packages counts too.

    Raises:
        ConfigError: a fault is not known.
    """
    return _with_outside_code(_loaded(ONLY_RENDER), *configs, judges=judges)


def hash_files(packages: Mapping[str, Path], without: Collection[str] = ()) -> str:
    """Hash of the names and contents of all files.

    Args:
        packages: folders by name.
        without: files and folders to leave out, as ``package/path``.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_files(packages, without)):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _files(packages: Mapping[str, Path], without: Collection[str]) -> Iterator[tuple[str, Path]]:
    for package, folder in packages.items():
        for path in folder.rglob("*"):
            inside = path.relative_to(folder)
            if any(part.startswith(".") or part == "__pycache__" for part in inside.parts):
                continue  # compiled code, and what editors and file managers leave
            name = f"{package}/{inside.as_posix()}"
            if path.is_file() and not any(name == left or name.startswith(f"{left}/") for left in without):
                yield name, path


@lru_cache
def _loaded(without: tuple[str, ...]) -> str:
    """Read once per process: an edit after that is not what this process runs."""
    return hash_files(PACKAGES, without)


def _with_outside_code(ours: str, *configs: Config, judges: Iterable[object] = ()) -> str:
    outside = outside_digests([*(thing for config in configs for thing in seams(config)), *judges])
    return hashlib.sha256("\n".join((ours, *outside)).encode()).hexdigest()


_loaded(ONLY_RENDER)  # at import, while the files are those that were loaded
_loaded((*ONLY_RENDER, *ONLY_JUDGE))
