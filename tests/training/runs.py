"""`etrm train` as a process of its own, and what processes leave."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.saved_steps import list_saved
from etrm.config import Config

Smoke = Callable[..., Config]
RunBytes = Callable[[Path], dict[str, bytes]]
SettingsOfSmoke = Callable[..., tuple[str, ...]]
ROOT = Path(__file__).parents[2]

SMALL = ("train.steps=6", "train.checkpoint_every=2", "train.warmup_steps=0")
ENDLESS = ("train.steps=100000", "train.checkpoint_every=1000")


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "cli", "train", "--out", str(folder), *more]


def started(folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command(folder, *more), cwd=ROOT, stderr=subprocess.PIPE, text=True)


def new_run(settings: tuple[str, ...]) -> list[str]:
    return ["--preset", "smoke", *(word for setting in settings for word in ("--set", setting))]


def steps_ever_done(folder: Path) -> int:
    """Lines of timing.jsonl, which no resumed run cuts back."""
    timing = folder / "timing.jsonl"
    return timing.read_bytes().count(b"\n") if timing.exists() else 0


def wait_for_steps(process: subprocess.Popen[str], folder: Path, steps: int) -> None:
    """Wait until the folder's processes have done so many steps in all, those that were lost included."""
    while steps_ever_done(folder) < steps:
        if process.poll() is not None:
            raise AssertionError(f"ended before step {steps}: {process.communicate()[1]}")
        time.sleep(0.002)


def assert_same_run(first: dict[str, bytes], second: dict[str, bytes]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def kill(process: subprocess.Popen[str]) -> None:
    assert process.poll() is None, "the run was too short to be killed"
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()


def assert_every_checkpoint_is_whole(folder: Path) -> None:
    for path in list_saved(folder):
        checkpoints.read(path)


def wait_for_no_worker() -> None:
    ends = time.monotonic() + 60
    while multiprocessing.active_children():
        assert time.monotonic() < ends, "a worker is left"
        time.sleep(0.02)
