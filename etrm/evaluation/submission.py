"""The submission file of the Kaggle ARC competitions: two attempts at every test of every task of a data set."""

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
"""Stands for an attempt that there is no candidate for, as in Kaggle's sample submission."""

Rows = list[list[int]]


class PlaceholderReason(StrEnum):
    """Why a task has a test whose attempts are placeholders."""

    MAX_SIDE = "max_side"  # not evaluated: a grid is larger than data.max_side
    MAX_TASKS = "max_tasks"  # not evaluated: evaluate.max_tasks was reached before it
    NO_GRID = "no_grid"  # evaluated, and no prediction for a test held a grid


@dataclass(frozen=True)
class Submitted:
    """A submission that was written.

    Attributes:
        path: its file.
        listing: the file that names its placeholders.
        tasks: number of tasks in it, all of the data set.
        placeholders: for every task that has a test without an answer, the reason.
    """

    path: Path
    listing: Path
    tasks: int
    placeholders: Mapping[str, PlaceholderReason]


def build_submission(tasks: Iterable[Task], candidates: Candidates) -> dict[str, list[dict[str, Rows]]]:
    """The contents of the file. Empty grids are no attempt: the next candidate takes their place."""
    return {
        task.id: [_attempts(ranked) for ranked in candidates.get(task.id, ((),) * len(task.tests))]
        for task in tasks
    }


def find_placeholders(
    tasks: Iterable[Task], candidates: Candidates, max_side: int
) -> dict[str, PlaceholderReason]:
    """Why tasks have a test without an answer; a task that is answered is not in it.

    Args:
        tasks: all of the data set.
        candidates: of the tasks that were evaluated.
        max_side: longest side of the grids that were evaluated.
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
    """Write the file, and beside it ``NAME.placeholders.json``; each whole or not at all.

    Args:
        path: of the file.
        tasks: all of the data set, in the order of the file.
        candidates: of the tasks that were evaluated; the others have placeholders.
        max_side: longest side of the grids that were evaluated.

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
            f"cannot write the submission {path}",
            got=error.strerror or str(error),
        ) from error
    return done


def _attempts(ranked: tuple[Candidate, ...]) -> dict[str, Rows]:
    grids: list[Rows] = [candidate.grid.tolist() for candidate in ranked if candidate.grid.size]
    grids += [PLACEHOLDER] * len(ATTEMPTS)
    return dict(zip(ATTEMPTS, grids, strict=False))
