"""States of folders, and of real processes that hold the lock, let go of it, or are killed."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from etrm.errors import RunFolderError
from reports.runs import run_state as state
from reports.runs.followed_run import Followed
from reports.runs.run_state import State, find_lock_holder
from tests.errors import raises_code

Write = Callable[..., Path]


on_linux = pytest.mark.skipif(not state.LOCKS.exists(), reason="only Linux says who holds a lock")


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder's lock."""
    code = (
        "import fcntl, sys\n"
        "lock = open(sys.argv[1], 'w')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(folder / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def seen(folder: Path) -> State:
    return Followed(folder).status.state


@on_linux
def test_whoever_holds_the_lock_is_at_work_and_is_left_alone(write_run: Write) -> None:
    folder = write_run(checkpoints=(0, 40))
    with holder(folder) as process:
        assert find_lock_holder(folder / "lock") == process.pid
        run = Followed(folder)
        assert (run.status.state, run.status.detail) == (State.RUNNING, f"process {process.pid}")
        assert not run.status.ended
        process.kill()
        process.wait()
        run.update()
        assert run.status.state is State.FINISHED
    assert find_lock_holder(folder / "lock") is None


@on_linux
def test_looking_never_takes_the_lock(write_run: Write) -> None:
    folder = write_run()
    (folder / "lock").touch()
    run = Followed(folder)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        run.update()
        assert run.status.detail == f"process {os.getpid()}"


@on_linux
def test_a_lock_of_another_file_is_nobodys_work_here(write_run: Write) -> None:
    first, second = write_run("a"), write_run("b")
    (second / "lock").touch()
    with holder(first):
        assert find_lock_holder(second / "lock") is None


def test_the_newest_checkpoint_of_a_failed_run_is_named(write_run: Write) -> None:
    details = [Followed(write_run(str(n), checkpoints=n)).status.detail for n in ((), (0,), (0, 20))]
    assert details == ["no checkpoint", "newest checkpoint: step 0", "newest checkpoint: step 20"]


def test_a_run_that_logged_its_last_step_and_lost_its_checkpoint_is_not_finished(write_run: Write) -> None:
    assert seen(write_run("lost", logged=40, checkpoints=(0, 20))) is State.FAILED
    assert seen(write_run("kept", logged=40, checkpoints=(0, 40))) is State.FINISHED


@on_linux
def test_a_lock_with_the_same_inode_number_on_another_disk_is_nobodys_work_here(
    write_run: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is listed must have this very file open; where that cannot be seen, the number has to do."""
    folder, listed = write_run(), write_run("elsewhere") / "locks"
    (folder / "lock").touch()
    with holder(listed.parent) as process:
        inode = (folder / "lock").stat().st_ino
        listed.write_text(f"1: FLOCK  ADVISORY  WRITE {process.pid} fe:00:{inode} 0 EOF\n")
        monkeypatch.setattr(state, "LOCKS", listed)
        assert find_lock_holder(folder / "lock") is None

        def forbidden(path: str) -> None:
            raise PermissionError(path)

        monkeypatch.setattr(os, "scandir", forbidden)
        assert find_lock_holder(folder / "lock") == process.pid


@on_linux
@pytest.mark.parametrize(
    ("logged", "checkpoints", "expected"),
    [
        (40, (20, 40), State.FINISHED),
        (30, (20, 30), State.STOPPED),
        (0, (0,), State.STOPPED),
        (30, (10, 20), State.FAILED),
        (30, (), State.FAILED),
        (0, (), State.FAILED),
    ],
)
def test_how_a_run_ended(
    write_run: Write, logged: int, checkpoints: tuple[int, ...], expected: State
) -> None:
    run = Followed(write_run(logged=logged, checkpoints=checkpoints))
    assert run.status.state is expected
    assert run.status.ended


def test_unfinished_on_another_machine_is_not_known(write_run: Write) -> None:
    assert seen(write_run("a", record={"host": "elsewhere"})) is State.UNKNOWN
    finished = write_run("b", record={"host": "elsewhere"}, logged=40, checkpoints=(40,))
    assert seen(finished) is State.FINISHED


def test_a_system_that_does_not_say_who_works_is_not_guessed_about(
    write_run: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "LOCKS", Path("/nowhere/locks"))
    assert seen(write_run()) is State.UNKNOWN


def test_a_folder_of_another_name_is_no_checkpoint(write_run: Write) -> None:
    folder = write_run(logged=10, checkpoints=(10,))
    (folder / "checkpoints" / "step_best").mkdir()
    assert seen(folder) is not State.FAILED


def test_a_damaged_record_is_named(write_run: Write) -> None:
    folder = write_run()
    (folder / "run.json").write_text("{")
    with raises_code(RunFolderError, "run.damaged-file", folder / "run.json"):
        Followed(folder)


def test_a_real_run_says_where_it_ran(trained: Path) -> None:
    assert json.loads((trained / "run.json").read_text())["host"] == os.uname().nodename
    assert seen(trained) is State.FINISHED
