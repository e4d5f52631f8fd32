"""The submission file of the Kaggle ARC competitions: two attempts at every test of every asked task."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from etrm.data.task import Task
from etrm.errors import DataError
from etrm.evaluation.passk import Candidates
from etrm.evaluation.voting import Candidate
from etrm.files import write_atomically

ATTEMPTS = ("attempt_1", "attempt_2")

PLACEHOLDER = [[0, 0], [0, 0]]
"""Stands for an attempt that there is no candidate for, as in Kaggle's sample submission."""

Rows = list[list[int]]


def submission(tasks: Iterable[Task], candidates: Candidates) -> dict[str, list[dict[str, Rows]]]:
    """The contents of the file. Empty grids are no attempt: the next candidate takes their place."""
    return {
        task.id: [_attempts(ranked) for ranked in candidates.get(task.id, ((),) * len(task.tests))]
        for task in tasks
    }


def write_submission(path: Path, tasks: Iterable[Task], candidates: Candidates) -> None:
    """Write the file, whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    text = json.dumps(submission(tasks, candidates))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise DataError(
            "evaluate.submission-not-writable",
            f"cannot write the submission {path}",
            got=error.strerror or str(error),
        ) from error


def _attempts(ranked: tuple[Candidate, ...]) -> dict[str, Rows]:
    grids: list[Rows] = [candidate.grid.tolist() for candidate in ranked if candidate.grid.size]
    grids += [PLACEHOLDER] * len(ATTEMPTS)
    return dict(zip(ATTEMPTS, grids, strict=False))
