"""Disks that are full or cannot be written: what was saved stays, and the run goes on when there is space."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.saved_steps import list_saved
from etrm.errors import CheckpointError, EtrmError, RunFolderError
from etrm.training.trainer import Trainer, train
from tests.command_line import etrm
from tests.errors import assert_holds, raises_code
from tests.training.runs import (
    SMALL,
    RunBytes,
    SettingsOfSmoke,
    Smoke,
    assert_every_checkpoint_is_whole,
    assert_same_run,
    new_run,
)


class FailingCalls:
    """Counts the calls by which a run changes the disk, and lets one of them fail."""

    CALLS = (
        *((os, name) for name in ("mkdir", "rename", "replace", "fsync", "truncate", "unlink", "rmdir")),
        (checkpoints, "save_file"),
        (Path, "write_text"),
        (Path, "touch"),
    )

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.failing = -1
        for owner, name in self.CALLS:
            monkeypatch.setattr(owner, name, self._counted(name, getattr(owner, name)))

    def _counted(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.names.append(name)
            if len(self.names) - 1 == self.failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args, **more)

        return call

    def fail(self, number: int) -> None:
        self.names, self.failing = [], number

    @contextmanager
    def refused(self, kind: type[EtrmError]) -> Iterator[None]:
        """Around what meets the failing call; only making a folder that is there may go on."""
        problem = ""
        try:
            yield
        except kind as error:
            problem = str(error)
        assert "No space left on device" in problem or self.names[self.failing] == "mkdir"


def made(step: int) -> checkpoints.Checkpoint:
    tensors = {"a": torch.full((3,), float(step))}
    return checkpoints.Checkpoint(step, tensors, tensors, tensors, {"metrics_bytes": 0})


def test_whichever_call_of_a_save_fails_every_checkpoint_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are kept, so that the third save also drops one."""

    def two_saved(folder: Path) -> None:
        for step in (1, 2):
            checkpoints.save(folder, made(step), keep=2)

    calls = FailingCalls(monkeypatch)
    two_saved(tmp_path / "none")
    calls.fail(-1)
    checkpoints.save(tmp_path / "none", made(3), keep=2)
    names = list(calls.names)
    assert {"mkdir", "save_file", "write_text", "fsync", "rename", "unlink", "rmdir"} <= set(names)
    for number in range(len(names)):
        folder = tmp_path / str(number)
        calls.fail(-1)
        two_saved(folder)
        calls.fail(number)
        with calls.refused(CheckpointError):
            checkpoints.save(folder, made(3), keep=2)
        assert_every_checkpoint_is_whole(folder)
        assert "step_00000002" in [path.name for path in list_saved(folder)]
        calls.fail(-1)
        checkpoints.save(folder, made(4), keep=2)
        assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_whichever_call_of_a_run_fails_it_goes_on_where_space_is_back(
    tmp_path: Path,
    smoke: Smoke,
    run_bytes: RunBytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = smoke(*SMALL)
    assert train(config, tmp_path / "whole")
    calls = FailingCalls(monkeypatch)  # behind the first run, which also does what is done once in a process
    assert train(config, tmp_path / "counted")
    names = list(calls.names)
    whole = run_bytes(tmp_path / "whole")
    for number in range(len(names)):
        folder = tmp_path / str(number)
        calls.fail(number)
        with calls.refused(EtrmError):
            train(config, folder)
        assert_every_checkpoint_is_whole(folder / "checkpoints")
        calls.fail(-1)
        assert train(config, folder, resume=True)
        assert_same_run(whole, run_bytes(folder))
    with capsys.disabled():
        print(f"\n{len(names)} calls failed in turn: {dict(Counter(names))}")  # noqa: T201


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of the given size, or gives it another; only where that is allowed."""
    mounted = tmp_path / "disk"
    mounted.mkdir()

    def resize(size: str) -> Path:
        options = f"size={size}" + (",remount" if mounted.is_mount() else "")
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mounted)]
        if subprocess.run(words, capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")
        return mounted

    yield resize
    if mounted.is_mount():
        subprocess.run(["umount", "-l", str(mounted)], check=True)


FULL = {"checkpoint.not-written", "run.not-writable"}
"""What a full disk can meet first depends on the file system."""


@pytest.mark.parametrize("pages", [8, 0], ids=["in a save", "in a line of metrics"])
def test_a_disk_that_fills_up_leaves_the_last_checkpoint_and_the_run_goes_on_when_there_is_space(
    tmp_path: Path,
    smoke: Smoke,
    run_bytes: RunBytes,
    small_disk: Callable[[str], Path],
    pages: int,
) -> None:
    # Lines of over a page each, so that the first one meets the end of the disk.
    config = smoke(*SMALL)
    folder = small_disk("64m") / "run"
    filler = folder.parent / "filler"

    def fill(trainer: Trainer, metrics: dict[str, Any]) -> None:
        """Leave a few pages: for lines and no checkpoint, or not for all lines up to the next one."""
        if trainer.step == 3:
            disk = os.statvfs(folder)
            filler.write_bytes(bytes((disk.f_bavail - pages) * disk.f_frsize))

    with pytest.raises(EtrmError) as caught:
        train(config, folder, on_step=fill)
    assert caught.value.code in FULL
    assert_holds(caught.value.got, os.strerror(errno.ENOSPC))
    assert "--resume" in caught.value.next_step
    assert_every_checkpoint_is_whole(folder / "checkpoints")
    assert list_saved(folder / "checkpoints")[-1].name == "step_00000002"
    with pytest.raises(EtrmError) as caught:
        train(config, folder, resume=True)  # still full
    assert caught.value.code in FULL
    assert_holds(caught.value.got, os.strerror(errno.ENOSPC))
    small_disk("128m")
    assert train(config, folder, resume=True)
    assert train(config, tmp_path / "whole")
    assert_same_run(run_bytes(tmp_path / "whole"), run_bytes(folder))


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Limits the bytes of every file that this process writes; the limit ends with the test."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_process_whose_files_may_not_grow_exits_2_without_a_traceback(
    tmp_path: Path, settings_of_smoke: SettingsOfSmoke, small_files: Callable[[int], None]
) -> None:
    """RLIMIT_FSIZE: the weights do not fit, what is small does."""
    small_files(20_000)
    done = etrm("train", "--out", tmp_path / "run", *new_run(settings_of_smoke()))
    assert done.code == 2, done.err
    assert_holds(done.err, "checkpoint.not-written", "step 0", os.strerror(errno.EFBIG))
    assert "Traceback" not in done.err
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_folder_that_becomes_unwritable_leaves_the_last_checkpoint(
    tmp_path: Path, smoke: Smoke, run_bytes: RunBytes
) -> None:
    """A file is where the checkpoints were: permissions mean nothing to root."""
    config, run = smoke(*SMALL), tmp_path / "run"

    def block(trainer: Trainer, metrics: dict[str, Any]) -> None:
        if trainer.step == 3:
            (run / "checkpoints").rename(run / "aside")
            (run / "checkpoints").write_text("")

    with raises_code(CheckpointError, "checkpoint.not-written", "step 4"):
        train(config, run, on_step=block)
    (run / "checkpoints").unlink()
    (run / "aside").rename(run / "checkpoints")
    assert_every_checkpoint_is_whole(run / "checkpoints")
    assert train(config, run, resume=True)
    assert train(config, tmp_path / "whole")
    assert_same_run(run_bytes(tmp_path / "whole"), run_bytes(run))


def test_a_disk_that_is_read_only_is_named(
    tmp_path: Path, smoke: Smoke, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("8m,ro")
    with raises_code(RunFolderError, "run.not-writable", os.strerror(errno.EROFS)) as caught:
        train(smoke(*SMALL), disk / "run")
    assert str(disk) in caught.value.what
