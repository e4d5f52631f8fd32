"""The arguments of workers: written once, shared by all, and gone when the pool is."""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from etrm.process_pool import read_shared, start_workers, write_shared

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
