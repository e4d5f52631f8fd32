"""Workers: their arguments are written once, shared by all, and gone when the pool is; nobody waits for ever."""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from etrm.process_pool import NotStarted, close_pool, read_shared, start_workers, write_shared

anything = st.one_of(
    st.text(),
    arrays.arrays(np.int64, st.integers(0, 40)),
    arrays.arrays(np.uint8, st.tuples(st.integers(0, 5), st.integers(0, 5))),
)
_sums: list[int] = []


def keep_sum(values: Any, text: str) -> None:
    _sums.append(int(values.sum()))


def read_place() -> tuple[str | None, str, bool]:
    return os.environ.get("ETRM_TEST_WORKER"), str(Path.cwd()), "HOME" in os.environ


def read_sum() -> int:
    return _sums[-1]


@given(st.tuples(anything, anything, anything))
def test_arguments_are_read_as_they_were_written(arguments: tuple[Any, ...]) -> None:
    file = write_shared(arguments)
    try:
        found = read_shared(file)
    finally:
        file.unlink()
    for one, other in zip(arguments, found, strict=True):
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other


def test_arrays_are_views_of_the_file_that_cannot_be_written_to() -> None:
    file = write_shared((np.arange(3), "x"))
    (found, _) = read_shared(file)
    file.unlink()
    assert not found.flags.owndata
    assert found.flags.aligned
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_a_worker_gets_a_short_message_and_the_file_goes_with_the_pool() -> None:
    """A message longer than a pipe's buffer would keep the parent from starting the next worker."""
    values = np.arange(100_000)
    pool = start_workers(1, keep_sum, (values, "x" * 100_000))
    sent: Any = pool._initargs  # type: ignore[attr-defined]
    environment, *others = sent
    assert environment == dict(os.environ)
    assert len(pickle.dumps(others)) < 1000
    file = next(part for part in sent if isinstance(part, Path))
    assert pool.submit(read_sum).result() == int(values.sum())
    pool.shutdown()
    assert file.exists()
    del pool
    gc.collect()
    assert not file.exists()


def test_every_pool_has_the_environment_and_the_folder_of_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when workers were started before, and what started them is kept."""
    monkeypatch.setenv("HOME", "/home")
    with start_workers(1) as pool:
        assert pool.submit(read_place).result() == (None, str(Path.cwd()), True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETRM_TEST_WORKER", "second")
    monkeypatch.delenv("HOME")
    with start_workers(1) as pool:
        assert pool.submit(read_place).result() == ("second", str(tmp_path), False)


MASKS = """
import json, signal
from etrm.process_pool import start_workers

def masked():
    return sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

if __name__ == "__main__":
    with start_workers(1) as pool:  # a worker has the mask of the server that forked it
        of_the_worker = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result()
    print(json.dumps([sorted(of_the_worker), masked()]))
"""
"""Prints the signals that are blocked in a worker, and in the process that started it."""


@pytest.mark.skipif(sys.platform != "linux", reason="a server forks the workers on Linux alone")
def test_ctrl_c_does_not_reach_the_server_while_it_imports() -> None:
    """In a process of its own: this one may have a server that another test started."""
    done = subprocess.run([sys.executable, "-c", MASKS], capture_output=True, text=True, check=True)
    of_the_worker, of_its_parent = json.loads(done.stdout)
    assert signal.SIGINT in of_the_worker
    assert signal.SIGINT not in of_its_parent


IMPORTS = """
import json
from etrm.process_pool import start_workers

if __name__ == "__main__":
    with start_workers(1, imported=["wave", "no_such_module"]) as pool:
        print(json.dumps(pool.submit(eval, "'wave' in __import__('sys').modules").result()))
"""
"""Prints whether a worker has a module that its server imported; one that does not exist changes nothing."""


@pytest.mark.skipif(sys.platform != "linux", reason="a server forks the workers on Linux alone")
def test_a_worker_has_what_the_server_imported() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert (json.loads(done.stdout), done.stderr) == (True, "")


INTERRUPTED = """
import os, signal, sys, threading
from etrm.process_pool import end_workers, start_workers

if __name__ == "__main__":
    number = int(sys.argv[1])
    signal.signal(number, signal.default_int_handler)
    pool = start_workers(1)
    threading.Timer(0.1, os.kill, (os.getpid(), number)).start()  # the server imports torch meanwhile
    try:
        pool.submit(int)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        print(len(pool._processes))
        end_workers(pool)
"""
"""Prints the number of workers that are known where a signal arrives while the first one starts."""


@pytest.mark.skipif(sys.platform != "linux", reason="a server forks the workers on Linux alone")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_starts_while_its_parent_is_interrupted_is_known(number: signal.Signals) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_first_worker_that_does_not_start_is_an_error_and_the_pool_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = threading.Event()
    monkeypatch.setattr(ProcessPoolExecutor, "submit", lambda *args: ends.wait())
    with start_workers(1) as pool:
        pool.limit = 0.01
        for _ in range(2):
            with pytest.raises(NotStarted):
                pool.submit(int)
    ends.set()


def stand_still_in_a_result(began: str) -> None:
    """Send the length of a result without the result."""
    frame = sys._getframe()
    while "result_queue" not in frame.f_locals:
        assert frame.f_back is not None
        frame = frame.f_back
    os.write(frame.f_locals["result_queue"]._writer.fileno(), (1000).to_bytes(4))
    Path(began).touch()
    time.sleep(600)


@pytest.mark.processes
def test_a_worker_that_stands_still_is_killed_with_its_pool(tmp_path: Path) -> None:
    pool, began = start_workers(2), tmp_path / "began"
    pool.submit(stand_still_in_a_result, str(began))
    (worker,) = (pool._processes or {}).values()
    thread: Any = pool._executor_manager_thread
    while not began.exists():
        time.sleep(0.001)
    assert not close_pool(pool, 0.01)
    worker.join(30)
    thread.join(30)
    assert not worker.is_alive()
    assert not thread.is_alive()


@pytest.mark.processes
def test_a_pool_is_closed_when_running_calls_have_ended() -> None:
    pool = start_workers(1)
    assert close_pool(pool)  # no worker was needed
    pool = start_workers(1)
    found = pool.submit(time.sleep, 0.01)
    assert close_pool(pool, 30)
    assert found.done()
