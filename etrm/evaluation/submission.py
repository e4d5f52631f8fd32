"""The submission file of the Kaggle ARC competitions, with two attempts for every test pair of every task."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from etrm.atomic_files import write_atomically
from etrm.data.task import Task
from etrm.errors import DataError
from etrm.evaluation.passk import Candidates
from etrm.evaluation.voting import Candidate

ATTEMPTS = ("attempt_1", "attempt_2")

PLACEHOLDER = [[0, 0], [0, 0]]
"""The placeholder for an attempt without a candidate, as in Kaggle's sample submission."""

Rows = list[list[int]]


class PlaceholderReason(StrEnum):
    """The reason why a task has a test pair whose attempts are placeholders."""

    MAX_SIDE = "max_side"  # not evaluated: a grid is larger than data.max_side
    MAX_TASKS = "max_tasks"  # not evaluated: evaluate.max_tasks was reached before it
    NO_GRID = "no_grid"  # evaluated, and no prediction for a test held a grid


@dataclass(frozen=True)
class Submitted:
    """A submission that was written.

    Attributes:
        path: the submission file.
        listing: the file that lists the tasks with placeholders.
        tasks: the number of tasks in the submission, which are all tasks of the data set.
        placeholders: the reason for every task that has a test pair without an answer.
    """

    path: Path
    listing: Path
    tasks: int
    placeholders: Mapping[str, PlaceholderReason]


def build_submission(tasks: Iterable[Task], candidates: Candidates) -> dict[str, list[dict[str, Rows]]]:
    """Return the contents of the file. Empty grids are skipped, so the next candidate is used instead."""
    return {
        task.id: [_attempts(ranked) for ranked in candidates.get(task.id, ((),) * len(task.tests))]
        for task in tasks
    }


def find_placeholders(
    tasks: Iterable[Task], candidates: Candidates, max_side: int
) -> dict[str, PlaceholderReason]:
    """Return the reason for each task that has a test pair without an answer.

    Args:
        tasks: all tasks of the data set.
        candidates: the candidates of the evaluated tasks.
        max_side: the longest side of the evaluated grids.
    """
    found: dict[str, PlaceholderReason] = {}
    for task in tasks:
        ranked = candidates.get(task.id)
        if ranked is None:
            found[task.id] = (
                PlaceholderReason.MAX_SIDE if task.max_side > max_side else PlaceholderReason.MAX_TASKS
            )
        elif not all(any(candidate.grid.size for candidate in test) for test in ranked):
            found[task.id] = PlaceholderReason.NO_GRID
    return found


def write_submission(path: Path, tasks: Iterable[Task], candidates: Candidates, max_side: int) -> Submitted:
    """Write the file, and ``NAME.placeholders.json`` next to it, both atomically.

    Args:
        path: the path of the file.
        tasks: all tasks of the data set, in the order of the file.
        candidates: the candidates of the evaluated tasks; the other tasks get placeholders.
        max_side: the longest side of the evaluated grids.

    Raises:
        DataError: a file cannot be written.
    """
    tasks = tuple(tasks)
    listing = path.with_name(f"{path.stem}.placeholders.json")
    done = Submitted(path, listing, len(tasks), find_placeholders(tasks, candidates, max_side))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(build_submission(tasks, candidates)))
        text = json.dumps({"tasks": done.tasks, "placeholders": done.placeholders}, indent=1)
        write_atomically(listing, text + "\n")
    except OSError as error:
        raise DataError(
            "evaluate.submission-not-writable",
            f"the submission {path} cannot be written",
            got=error.strerror or str(error),
            next_step="name a file in a folder that you may write to",
        ) from error
    return done


def _attempts(ranked: tuple[Candidate, ...]) -> dict[str, Rows]:
    grids: list[Rows] = [candidate.grid.tolist() for candidate in ranked if candidate.grid.size]
    grids += [PLACEHOLDER] * len(ATTEMPTS)
    return dict(zip(ATTEMPTS, grids, strict=False))
