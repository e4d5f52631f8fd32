"""A prebuilt store: every task under its fixed augmentations, computed once and then read by memory map.

    index.json               the contents, with counts and the SHA-256 of every shard; written last
    shards/00000.safetensors one task per file, in the order of their ids, see :mod:`etrm.data.shard`

An episode that is read from a store equals the one that would be computed without it.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from etrm.data.shard import Shard
from etrm.data.sources import TaskSet
from etrm.data.task import Task
from etrm.errors import DataError

SCHEMA = 1
"""Version of the index; it grows when an older reader would misread a store."""
INDEX = "index.json"
SHARDS = "shards"


@dataclass(frozen=True)
class IndexEntry:
    """A shard: its file, its task (the id and ``Task.canonical``), its number of distinct rows and its digest."""

    file: str
    id: str
    task: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """The contents of a store.

    Attributes:
        source, subset, version, data_hash: the origin of the task set from which the store was built.
        seed: the seed of the augmentations, which is the seed of the run.
        augmentations: the number of augmentations per task, the identity first.
        shards: the shards, one per task; None while the store is being built.
    """

    source: str
    subset: str
    version: str
    data_hash: str
    seed: int
    augmentations: int
    shards: tuple[IndexEntry, ...] | None = None

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of tasks, augmented tasks, stored augmented tasks, dropped duplicates, and bytes."""
        shards = self.shards or ()
        augmented, stored = len(shards) * self.augmentations, sum(shard.rows for shard in shards)
        return {
            "tasks": len(shards),
            "augmented": augmented,
            "stored": stored,
            "duplicates": augmented - stored,
            "bytes": sum(shard.bytes for shard in shards),
        }

    def to_json(self) -> str:
        """Return the index as JSON, with the counts; equal indexes give equal texts."""
        tree = {"schema": SCHEMA, **asdict(self), "counts": self.counts}
        return json.dumps(tree, indent=1) + "\n"


def read_index(folder: Path) -> Index:
    """Read the index of a store, finished or not.

    Raises:
        DataError: there is no index, or this version cannot read it.
    """
    path = folder / INDEX
    if not path.exists():
        raise DataError(
            "store.absent",
            f"{folder} is not a data store",
            got=f"no {INDEX}",
            allowed="a folder that `etrm data build` wrote",
            next_step=f"etrm data build --out {shlex.quote(str(folder))}",
        )
    try:
        tree = json.loads(path.read_text("utf-8"))
        if tree.pop("schema") != SCHEMA:
            raise ValueError(f"the schema is not {SCHEMA}")
        counts = tree.pop("counts")
        shards = tree.pop("shards")
        index = Index(
            **tree, shards=None if shards is None else tuple(IndexEntry(**entry) for entry in shards)
        )
        if counts != index.counts:
            raise ValueError("the counts do not fit the shards")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            "store.unreadable-index",
            f"{folder} is not a data store",
            got=f"{path.name}: {type(error).__name__}: {error}",
            allowed="a folder that `etrm data build` wrote",
            next_step=f"remove {path}, then run the same `etrm data build` again; it keeps the complete shards",
        ) from error
    return index


class EpisodeStore:
    """A finished store, opened for reading.

    Raises:
        DataError: the folder is not a store, it is not finished, or a shard is missing or has another size.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.index = folder, read_index(folder)
        if self.index.shards is None:
            raise DataError(
                "store.unfinished",
                f"the store {folder} is not finished",
                next_step="run the same `etrm data build` again",
            )
        self._entries = {entry.task: entry for entry in self.index.shards}
        self._opened: dict[str, Shard] = {}
        for entry in self.index.shards:
            self._check_size(entry)

    def require(self, tasks: TaskSet, augmentations: int, seed: int) -> None:
        """Refuse a store that does not cover these tasks. A store with more tasks or augmentations does.

        Raises:
            DataError: the store was built from other tasks, with another seed, or with fewer augmentations.
        """
        index = self.index
        if index.seed != seed or index.augmentations < augmentations:
            raise DataError(
                "store.other-augmentations",
                f"the store {self.folder} holds other augmentations",
                got=f"{index.augmentations} per task, seed {index.seed}",
                allowed=f"at least {augmentations} (data.augmentations), seed {seed} (train.seed)",
                next_step="build a store with the settings of this run: etrm data build",
            )
        missing = [task.id for task in tasks if task.canonical not in self._entries]
        if missing:
            raise DataError(
                "store.absent-tasks",
                f"the store {self.folder} lacks {len(missing)} of {len(tasks)} tasks, or has older versions of them",
                got=", ".join(missing[:5]),
                allowed=f"tasks of {index.source} ({index.subset}), data hash {index.data_hash[:16]}…",
                next_step="build one with the settings of this run: etrm data build",
            )

    def shard(self, task: Task) -> Shard:
        """Return the shard of a task. Its digest is verified when it is first opened.

        Raises:
            DataError: the file was changed.
        """
        key = task.canonical
        if key not in self._opened:
            self._opened[key] = self._open(self._entries[key])
        return self._opened[key]

    def verify(self) -> None:
        """Read every shard and compare it with its digest.

        Raises:
            DataError: a file was changed. The error names the first one.
        """
        assert self.index.shards is not None
        for entry in self.index.shards:
            self._open(entry)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}  # another process has to map the files itself

    def _open(self, entry: IndexEntry) -> Shard:
        path = self.folder / SHARDS / entry.file
        self._check_size(entry)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                raise self._damaged(path, "its SHA-256 is not the one in the index")
        return Shard.open(path)

    def _check_size(self, entry: IndexEntry) -> None:
        path = self.folder / SHARDS / entry.file
        try:
            size = path.stat().st_size
        except OSError as error:
            raise self._damaged(path, error.strerror or str(error)) from error
        if size != entry.bytes:
            raise self._damaged(path, f"{size} bytes instead of {entry.bytes}")

    def _damaged(self, path: Path, how: str) -> DataError:
        return DataError(
            "store.altered-file",
            f"{path} in the store {self.folder} is damaged",
            got=how,
            next_step="run the same `etrm data build` again; it keeps complete shards and writes the others",
        )
