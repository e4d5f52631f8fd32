"""Tasks that stand on both sides of a split, by id and by their grids."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from etrm.data.sources import TaskSet
from etrm.data.task import Task
from etrm.errors import LeakageError

TWINS = ("070dd51e",)
"""Tasks of ARC-AGI-1 evaluation that stand in its own training set, under another id: 40853293."""


@dataclass(frozen=True)
class Leakage:
    """Held-out tasks that training would see.

    Attributes:
        by_id: their id stands in the training set.
        by_grids: the grids do: a test pair, or, where the outputs are unknown, every demonstration.
    """

    by_id: tuple[str, ...]
    by_grids: tuple[str, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """All of them, sorted."""
        return tuple(sorted({*self.by_id, *self.by_grids}))


def find_leakage(train: TaskSet, held_out: TaskSet, allow: Collection[str] = ()) -> Leakage:
    """The held-out tasks, but for those allowed, that training would see."""
    ids = {task.id for task in train}
    pairs = {pair.hash for task in train for pair in task.pairs}
    asked = [task for task in held_out if task.id not in allow]
    return Leakage(
        by_id=tuple(task.id for task in asked if task.id in ids),
        by_grids=tuple(task.id for task in asked if _grids_leak(task, pairs)),
    )


def check_leakage(train: TaskSet, held_out: TaskSet, allow: Collection[str] = ()) -> None:
    """Refuse a split on whose both sides a task stands.

    Args:
        train: what is trained on.
        held_out: what is evaluated.
        allow: ids of tasks that may stand on both sides.

    Raises:
        LeakageError: naming the tasks.
    """
    found = find_leakage(train, held_out, allow)
    if not found.ids:
        return
    named = ", ".join(found.ids[:10]) + (", …" if len(found.ids) > 10 else "")
    raise LeakageError(
        "data.leakage",
        f"{len(found.ids)} of {len(held_out)} tasks of {held_out.source} ({held_out.subset}) "
        f"would be trained on with {train.source} ({train.subset})",
        got=f"{len(found.by_id)} by id, {len(found.by_grids)} by their grids: {named}",
        allowed="sets that share no task",
        next_step="leave them out of training with --set 'data.exclude=[\"ID\"]' (a twin has another id there), "
        "or allow them by name with --set 'evaluate.allow_trained=[\"ID\"]'",
    )


def _grids_leak(task: Task, pairs: set[str]) -> bool:
    known = [pair for pair in task.tests if pair.output is not None]
    if any(pair.hash in pairs for pair in known):
        return True
    return len(known) < len(task.tests) and all(pair.hash in pairs for pair in task.demos)
