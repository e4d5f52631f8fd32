"""Worker processes that ignore Ctrl-C and end when their parent ends."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command."""
LIMIT = 120.0
"""Seconds to wait for a worker. It imports torch first, which takes ten on a slow disk; one that has not come up after
this long never will."""
PATIENCE = 10.0
"""Seconds that a closed pool gives to running calls, which take less than one."""


class NotStarted(BrokenExecutor):
    """No worker started in time."""


class WorkerPool(ProcessPoolExecutor):
    """A pool whose workers start while interruptions wait, and whose first worker has to start in time.

    A worker whose parent leaves while it starts would print a traceback, and would not be known to those who end it.

    Attributes:
        limit: the number of seconds to wait for the first worker.
    """

    limit = LIMIT
    _abandoned = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call in a worker, and the worker if there are fewer than may be.

        Raises:
            NotStarted: the first worker did not start within the limit.
        """
        with _interruptions_wait():
            if self._processes:
                return super().submit(fn, *args, **kwargs)
            return self._submit_first(fn, *args, **kwargs)

    def _submit_first(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call in a thread, because nothing ends a wait for a server that never answers."""
        if self._abandoned:
            raise NotStarted("no worker started")
        submitted: Future[Future[Any]] = Future()
        submit = super().submit

        def attempt() -> None:
            try:
                submitted.set_result(submit(fn, *args, **kwargs))
            except Exception as error:  # noqa: BLE001  # raised by the one who waits
                submitted.set_exception(error)

        threading.Thread(target=attempt, daemon=True).start()
        try:
            return submitted.result(self.limit)
        except TimeoutError:
            self._abandoned = True
            raise NotStarted(f"no worker started within {self.limit:g} seconds") from None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers when their calls have ended. A pool whose first worker never started has none."""
        if not self._abandoned:  # else the thread that waits for a worker holds the lock
            super().shutdown(wait, cancel_futures=cancel_futures)


@contextmanager
def _interruptions_wait() -> Iterator[None]:
    """Let signals that end a command arrive afterwards. A mask would not do: other threads take them too."""
    if threading.current_thread() is not threading.main_thread():  # which alone handles signals
        yield
        return
    arrived: list[int] = []
    handlers = {number: signal.getsignal(number) for number in _ENDING}
    held = {number: known for number, known in handlers.items() if callable(known)}
    for number in held:
        signal.signal(number, lambda number, frame: arrived.append(number))
    try:
        yield
    finally:
        for number, known in held.items():
            signal.signal(number, known)
        for caught in arrived:
            signal.raise_signal(caught)


def start_workers(
    workers: int,
    prepare: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
    imported: Sequence[str] = (),
) -> WorkerPool:
    """Return a pool of processes that import torch once between them.

    They are forked by a server, which imports torch and computes nothing: after a fork of this process, torch would
    deadlock in its thread pools. Anywhere but on Linux they are spawned.

    Args:
        workers: the largest number of processes; each starts when it is first needed, with the environment of
            now.
        prepare: a function that is called once in every worker.
        arguments: the arguments of ``prepare``, pickled once; all workers share the memory of their arrays.
        imported: names of modules that the server imports too, unless it runs already.
    """
    context = prepare_server(imported)
    if prepare is None:
        return WorkerPool(workers, context, _begin, (dict(os.environ),))
    shared = write_shared(arguments)
    pool = WorkerPool(workers, context, _begin, (dict(os.environ), prepare, shared))
    weakref.finalize(pool, shared.unlink, missing_ok=True)
    return pool


def prepare_server(imported: Sequence[str] = ()) -> BaseContext:
    """Start the server that forks workers, unless it runs, and return the context of its processes.

    The first worker waits for the imports of the server, so a server that is started early saves that time.

    Args:
        imported: names of modules that it imports in addition to torch.
    """
    if sys.platform != "linux":  # there is no fork, or libraries of the system do not survive it
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", *imported])
    _start_server()
    return context


def _start_server() -> None:
    """Start the server, if it does not run, with Ctrl-C blocked: while it imports, it would print a traceback."""
    from multiprocessing import forkserver, resource_tracker  # not everywhere

    resource_tracker.ensure_running()  # else the server starts it, which unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def write_shared(arguments: tuple[Any, ...]) -> Path:
    """Write picklable arguments to a temporary file, with the bytes of their arrays as they are in memory.

    A worker gets the name of the file. If it got the arguments themselves, the parent would wait until the worker has
    imported and read everything, and only then start the next one.
    """
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(arguments, protocol=5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    head = pickle.dumps([len(body), *(array.nbytes for array in arrays)])
    with tempfile.NamedTemporaryFile(prefix="etrm-workers-", delete=False) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for part in (memoryview(body), *arrays):
            file.write(bytes(_find_start(file.tell()) - file.tell()))
            file.write(part)
    return Path(file.name)


def read_shared(path: Path) -> tuple[Any, ...]:
    """Read what :func:`write_shared` wrote.

    Arrays are views of the mapped file, whose memory all workers share, and cannot be written to.
    """
    with path.open("rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    end = 8 + int.from_bytes(mapped[:8], "little")
    parts = []
    for size in pickle.loads(mapped[8:end]):
        start = _find_start(end)
        end = start + size
        parts.append(mapped[start:end])
    arguments: tuple[Any, ...] = pickle.loads(parts[0], buffers=parts[1:])
    return arguments


def _find_start(place: int) -> int:
    """Return the next place in a file at which an array of any type may begin in memory."""
    return -(-place // 64) * 64


def end_workers(pool: ProcessPoolExecutor) -> None:
    """Kill the processes of a pool, also those that do not answer; Python would wait for them when it ends."""
    _kill(list((pool._processes or {}).values()), pool._result_queue)  # ``kill_workers`` from Python 3.14 on


def close_pool(pool: ProcessPoolExecutor, seconds: float = PATIENCE) -> bool:
    """Drop calls that wait, and end the workers when their calls have ended.

    Returns:
        whether they ended within so many seconds; else they are killed.
    """
    thread: Any = pool._executor_manager_thread  # typeshed has another class
    results = pool._result_queue
    workers = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    if thread is not None:  # a worker was needed
        thread.join(seconds)
    if thread is None or not thread.is_alive():
        return True
    _kill(workers, results)
    return False


def _kill(workers: Iterable[BaseProcess], results: Any) -> None:
    for worker in workers:
        worker.kill()
    if results is not None:  # a thread would wait for the rest of a result that a worker had begun to send
        results._writer.close()


def _begin(
    environment: dict[str, str],
    prepare: Callable[..., None] | None = None,
    shared: Path | None = None,
) -> None:
    os.environ.clear()  # the server has that of the time when it was started
    os.environ.update(environment)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole process group; only the parent handles it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None and shared is not None:
        try:
            arguments = read_shared(shared)
        except FileNotFoundError:  # the pool was closed before this worker had begun
            os._exit(0)
        prepare(*arguments)


def _end_with_parent() -> None:
    """End this process when its parent is gone. A parent that is killed with SIGKILL cannot tell its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
