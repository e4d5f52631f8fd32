from __future__ import annotations

import errno
import gc
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from etrm.data import Task, TaskSet, build, load_tasks
from etrm.data.build import build_store
from etrm.data.store import EpisodeStore, read_index
from etrm.errors import DataError
from tests.errors import raises_code

BUILD = """
import sys
from pathlib import Path
from etrm.data import load_tasks
from etrm.data.build import build_store
if __name__ == "__main__":
    tasks = load_tasks("arc-agi-1", "training", 10, 60)
    build_store(Path(sys.argv[1]), tasks, 300, 0, workers=2)
"""


def content(folder: Path) -> dict[str, str]:
    """The digest of every file but the lock."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


class Program:
    """A build in an interpreter of its own, with two workers."""

    def __init__(self, folder: Path) -> None:
        script = folder.parent / "build.py"
        script.write_text(BUILD)
        self.process = subprocess.Popen([sys.executable, str(script), str(folder)])
        self.pid = self.process.pid

    def running(self) -> bool:
        return self.process.poll() is None

    def join(self) -> int | None:
        return self.process.wait()


class Fork:
    """A build in a fork of this process, which starts at once; it touches no torch."""

    def __init__(self, folder: Path) -> None:
        tasks = load_tasks("arc-agi-1", "training", 10, 60)
        gc.collect()  # a process group of an earlier test would wait in the fork for threads that it lacks
        self.process = multiprocessing.get_context("fork").Process(
            target=build_store, args=(folder, tasks, 300, 0)
        )
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    def running(self) -> bool:
        return self.process.is_alive()

    def join(self) -> int | None:
        self.process.join()
        return self.process.exitcode


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path, small_set: TaskSet) -> None:
    indices = [build_store(tmp_path / str(n), small_set, 12, 1, workers=n) for n in (1, 2)]
    assert indices[0] == indices[1] == read_index(tmp_path / "1")
    assert content(tmp_path / "1") == content(tmp_path / "2")
    assert len(content(tmp_path / "1")) == 1 + len(small_set)


@pytest.mark.parametrize("begin", [Fork, pytest.param(Program, marks=pytest.mark.slow)])
def test_killed_at_any_point_the_same_build_goes_on(
    tmp_path: Path, begin: Callable[[Path], Fork | Program]
) -> None:
    assert Fork(tmp_path / "whole").join() == 0
    folder, shards = tmp_path / "killed", tmp_path / "killed" / "shards"
    kept: dict[Path, int] = {}
    for goal in (1, 20, 45):
        build = begin(folder)
        while build.running() and len(list(shards.glob("0*"))) < goal:
            time.sleep(0.002)
        assert build.running(), "finished before it could be killed"
        os.kill(build.pid, signal.SIGKILL)
        build.join()
        with raises_code(DataError, "store.unfinished", folder):
            EpisodeStore(folder)
        for path, written in kept.items():
            assert path.stat().st_mtime_ns == written  # what was finished is not made again
        kept = {path: path.stat().st_mtime_ns for path in shards.glob("0*")}
        time.sleep(0.5 if begin is Program else 0)  # workers see that their parent is gone
    assert begin(folder).join() == 0
    for path, written in kept.items():
        assert path.stat().st_mtime_ns == written
    assert content(folder) == content(tmp_path / "whole")
    EpisodeStore(folder).verify()


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    build = Program(tmp_path / "store")
    shards = tmp_path / "store" / "shards"
    while not list(shards.glob("0*")):
        assert build.running()
        time.sleep(0.01)
    children = Path(f"/proc/{build.pid}/task/{build.pid}/children").read_text().split()
    assert children
    os.kill(build.pid, signal.SIGKILL)
    build.join()
    ends = time.monotonic() + 30
    while any(alive(pid) for pid in children):
        assert time.monotonic() < ends, "an orphan is left"
        time.sleep(0.05)


def alive(pid: str) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_damaged_shard_is_written_again_and_the_others_stay(tmp_path: Path, small_set: TaskSet) -> None:
    folder = tmp_path / "store"
    build_store(folder, small_set, 12, 1)
    before = content(folder)
    first, second, third = (folder / "shards" / f"0000{n}.safetensors" for n in (0, 1, 2))
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    second.write_bytes(third.read_bytes())  # whole, but of another task
    (folder / "shards" / ".00003.safetensors.1.tmp").write_bytes(b"half")
    written = third.stat().st_mtime_ns
    build_store(folder, small_set, 12, 1)
    assert content(folder) == before
    assert third.stat().st_mtime_ns == written


@pytest.mark.parametrize(("augmentations", "seed"), [(13, 1), (12, 2)])
def test_a_store_of_other_settings_is_not_touched(
    tmp_path: Path, small_set: TaskSet, augmentations: int, seed: int
) -> None:
    folder = tmp_path / "store"
    build_store(folder, small_set, 12, 1)
    before = content(folder)
    with raises_code(DataError, "store.holds-another", folder, f"{augmentations} augmentations, seed {seed}"):
        build_store(folder, small_set, augmentations, seed)
    with raises_code(DataError, "store.holds-another", folder, small_set.hash[:16]):
        build_store(folder, small_set.without(["task0"]), 12, 1)
    assert content(folder) == before


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path, small_set: TaskSet) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with raises_code(DataError, "store.holds-other-files", tmp_path, got="thesis.tex"):
        build_store(tmp_path, small_set, 2, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with raises_code(DataError, "store.not-writable", tmp_path / "thesis.tex" / "store"):
        build_store(tmp_path / "thesis.tex" / "store", small_set, 2, 0)


def test_one_process_builds_at_a_time(tmp_path: Path, small_set: TaskSet) -> None:
    with build._claimed(tmp_path / "store"), raises_code(DataError, "store.being-built", tmp_path / "store"):
        build_store(tmp_path / "store", small_set, 2, 0)


def test_a_full_disk_keeps_what_is_finished(
    tmp_path: Path, small_set: TaskSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = build.write_atomically, []

    def full(path: Path, data: bytes | str) -> None:
        calls.append(path)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(build, "write_atomically", full)
    with raises_code(DataError, "store.build-failed", tmp_path / "store", os.strerror(errno.ENOSPC)):
        build_store(tmp_path / "store", small_set, 2, 0)
    assert len(list((tmp_path / "store" / "shards").iterdir())) == 3
    monkeypatch.setattr(build, "write_atomically", write)
    build_store(tmp_path / "store", small_set, 2, 0)
    EpisodeStore(tmp_path / "store").verify()


def test_progress_counts_every_shard(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    seen: list[tuple[int, int]] = []
    tasks = TaskSet(tuple(make_task(f"t{i}") for i in range(3)), "s", "training")
    build_store(tmp_path / "store", tasks, 2, 0, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
