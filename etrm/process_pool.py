"""Worker processes that ignore Ctrl-C and end when their parent ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def start_workers(
    workers: int, prepare: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """Return a pool of spawned processes; after a fork, torch would deadlock in its thread pools.

    Args:
        workers: the largest number of processes; each starts when it is first needed.
        prepare: a function that is called once in every worker.
        arguments: the arguments of ``prepare``, pickled once for each worker.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, _begin, (prepare, arguments))


def end_workers(pool: ProcessPoolExecutor) -> None:
    """Kill the processes of a pool, also those that do not answer; Python would wait for them when it ends."""
    for process in list((pool._processes or {}).values()):  # ``kill_workers`` from Python 3.14 on
        process.kill()


def _begin(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole process group; only the parent handles it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _end_with_parent() -> None:
    """End this process when its parent is gone. A parent that is killed with SIGKILL cannot tell its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
