"""Find tasks that are on both sides of a split, by their ids and by their grids."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from etrm.data.sources import TaskSet
from etrm.data.task import Task
from etrm.errors import LeakageError

TWINS = ("070dd51e",)
"""Tasks of ARC-AGI-1 evaluation that its training set contains under another id, 40853293."""

NAMED = 10
"""Tasks that an error names."""


@dataclass(frozen=True)
class Leakage:
    """Held-out tasks that are also in the training set.

    Attributes:
        by_id: the tasks whose id is in the training set.
        by_grids: the tasks whose grids are: a test pair or, if the outputs are unknown, every demonstration.
    """

    by_id: tuple[str, ...]
    by_grids: tuple[str, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all these tasks, sorted."""
        return tuple(sorted({*self.by_id, *self.by_grids}))


def find_leakage(train: TaskSet, held_out: TaskSet, allow: Collection[str] = ()) -> Leakage:
    """Return the held-out tasks that are also in the training set, except those in ``allow``."""
    ids = {task.id for task in train}
    pairs = {pair.hash for task in train for pair in task.pairs}
    asked = [task for task in held_out if task.id not in allow]
    return Leakage(
        by_id=tuple(task.id for task in asked if task.id in ids),
        by_grids=tuple(task.id for task in asked if _grids_leak(task, pairs)),
    )


def check_leakage(train: TaskSet, held_out: TaskSet, allow: Collection[str] = ()) -> None:
    """Refuse a split if a task is on both sides.

    Args:
        train: the training tasks.
        held_out: the evaluation tasks.
        allow: the ids of tasks that may be on both sides.

    Raises:
        LeakageError: a task is on both sides. The error names the tasks.
    """
    found = find_leakage(train, held_out, allow)
    if not found.ids:
        return
    twins = [_find_trained(train, held_out.get(task)) for task in found.ids[:NAMED]]
    named = ", ".join(
        task if twin == task else f"{task} (trained as {twin})"
        for task, twin in zip(found.ids, twins, strict=False)
    )
    more = ", …" if len(found.ids) > NAMED else ""
    raise LeakageError(
        "data.leakage",
        f"{len(found.ids)} of {len(held_out)} evaluation tasks ({held_out.source}, {held_out.subset}) "
        f"are also training tasks ({train.source}, {train.subset})",
        got=f"{len(found.by_id)} by id, {len(found.by_grids)} by their grids: {named}{more}",
        allowed="sets that share no task",
        next_step="in a folder, put them into its subfolders training and evaluation; or leave them out of training "
        f"with --set 'data.exclude=[\"{twins[0]}\"]' (--exclude {twins[0]} in etrm data check), or allow them with "
        f"--set 'evaluate.allow_trained=[\"{found.ids[0]}\"]'",
    )


def _find_trained(train: TaskSet, task: Task) -> str:
    """Return the id under which a held-out task is in the training set; its own if several tasks share its pairs."""
    same = [
        own.id for own in train if own.id == task.id or _grids_leak(task, {pair.hash for pair in own.pairs})
    ]
    return task.id if task.id in same or not same else same[0]


def _grids_leak(task: Task, pairs: set[str]) -> bool:
    known = [pair for pair in task.tests if pair.output is not None]
    if any(pair.hash in pairs for pair in known):
        return True
    return len(known) < len(task.tests) and all(pair.hash in pairs for pair in task.demos)
