"""Build a store in several processes, with one shard per task. A shard is a pure function of its task.

A build that is interrupted at any point can be resumed, because a shard gets its final name only when it is complete.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from etrm.atomic_files import sync_folder, write_atomically
from etrm.data.shard import Shard, encode
from etrm.data.sources import TaskSet
from etrm.data.store import INDEX, SHARDS, Index, IndexEntry, read_index
from etrm.data.task import Task
from etrm.errors import DataError
from etrm.process_pool import start_workers


def build_store(
    folder: Path,
    tasks: TaskSet,
    augmentations: int,
    seed: int,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Index:
    """Write the store of some tasks, or the missing part of it.

    Args:
        folder: the folder of the store.
        tasks: the tasks to store.
        augmentations: the number of augmentations per task, the identity first.
        seed: the seed of the augmentations, which is the seed of the runs that will read the store.
        workers: the number of processes; 1 builds in this process. The files do not depend on it.
        progress: a function that is called with the number of finished shards and their total number.

    Raises:
        DataError: the folder contains something else or cannot be written, another process is building
            there, or a worker died.
    """
    plan = Index(tasks.source, tasks.subset, tasks.version, tasks.hash, seed, augmentations)
    with _claimed(folder):
        _begin(folder, plan)
        try:
            entries = []
            for entry in _shards(folder, tasks, plan, workers):
                entries.append(entry)
                progress(len(entries), len(tasks))
            sync_folder(folder / SHARDS)
            index = replace(plan, shards=tuple(entries))
            write_atomically(folder / INDEX, index.to_json())
            sync_folder(folder)
        except (OSError, BrokenExecutor) as error:
            raise DataError(
                "store.build-failed",
                f"the store {folder} could not be built",
                got=str(error),
                next_step="free disk space or memory, then run the same command again; finished shards are kept",
            ) from error
    return index


def _shards(folder: Path, tasks: TaskSet, plan: Index, workers: int) -> Iterator[IndexEntry]:
    paths = [folder / SHARDS / f"{number:05d}.safetensors" for number in range(len(tasks))]
    if workers == 1:
        for task, path in zip(tasks, paths, strict=True):
            yield build_shard(path, task, plan.augmentations, plan.seed)
        return
    pool = start_workers(workers)
    try:
        asked = [
            pool.submit(build_shard, path, task, plan.augmentations, plan.seed)
            for task, path in zip(tasks, paths, strict=True)
        ]
        for future in asked:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def build_shard(path: Path, task: Task, augmentations: int, seed: int) -> IndexEntry:
    """Write one shard, unless it exists and is complete."""
    rows = _rows_of_whole(path, task)
    if rows is None:
        write_atomically(path, encode(task, augmentations, seed))
        rows = len(Shard.open(path).cells)
    data = path.read_bytes()
    return IndexEntry(path.name, task.id, task.canonical, rows, len(data), hashlib.sha256(data).hexdigest())


def _rows_of_whole(path: Path, task: Task) -> int | None:
    try:
        found = Shard.open(path)
    except (OSError, ValueError):  # missing or damaged, so it is written again
        return None
    return len(found.cells) if found.task == task.canonical and found.whole else None


def _begin(folder: Path, plan: Index) -> None:
    """Record what is being built, or check that it equals what an interrupted build recorded."""
    if (folder / INDEX).exists():
        found = read_index(folder)
        if replace(found, shards=None) != plan:
            raise DataError(
                "store.holds-another",
                f"{folder} contains another store",
                got=f"{found.source} ({found.subset}), data hash {found.data_hash[:16]}…, "
                f"{found.augmentations} augmentations, seed {found.seed}",
                allowed=f"{plan.source} ({plan.subset}), data hash {plan.data_hash[:16]}…, "
                f"{plan.augmentations} augmentations, seed {plan.seed}",
                next_step="use another --out, or delete the other store",
            )
    (folder / SHARDS).mkdir(exist_ok=True)
    for unfinished in (folder / SHARDS).glob(".*.tmp"):  # left by a process that was killed
        unfinished.unlink(missing_ok=True)
    write_atomically(folder / INDEX, plan.to_json())


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Lock the folder, so that no other process builds there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in (INDEX, SHARDS, "lock"))
        if foreign and not (folder / INDEX).exists():
            raise DataError(
                "store.holds-other-files",
                f"{folder} contains files that are not part of a store",
                got=foreign[0],
                allowed="an empty folder or a store",
                next_step="give another --out",
            )
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise DataError(
            "store.not-writable",
            f"the store {folder} cannot be written",
            got=str(error),
            next_step="name a folder that you may write to",
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                "store.being-built",
                f"another process is building {folder}",
                next_step="wait until it ends, then run the same command again",
            ) from error
        yield
