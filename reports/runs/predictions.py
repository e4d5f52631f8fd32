"""What a run answers to the test queries, beside what was asked and what is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from etrm.config import Changes
from etrm.data import Grid, Pair
from etrm.data.task import Task
from etrm.errors import DataError
from etrm.evaluation import Candidate, QueryResult
from etrm.training.scoring.score_run import Evaluated, evaluate_run

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Answered:
    """One test query and its first answer, the one that pass@1 counts.

    Attributes:
        task: the task.
        query: index among its tests.
        answer: the answer with the most votes; None where nothing was predicted.
        result: what evaluation made of it.
    """

    task: Task
    query: int
    answer: Candidate | None
    result: QueryResult

    @property
    def pair(self) -> Pair:
        """What was asked, and what is right."""
        return self.task.tests[self.query]

    @property
    def target(self) -> Grid:
        """What is right."""
        assert self.pair.output is not None, "a scored query has its output"
        return self.pair.output

    @property
    def grid(self) -> Grid:
        """What was answered; (0, 0) where there is no answer, or the answer holds no grid."""
        return np.zeros((0, 0), np.uint8) if self.answer is None else self.answer.grid

    @property
    def solved(self) -> bool:
        """Whether it counts as solved at the first attempt."""
        return self.result.solved(1)

    @property
    def wrong_cells(self) -> Mask:
        """(rows, columns) of the answer: which of its cells differ from the target, or lie outside it."""
        return find_wrong_cells(self.grid, self.target)

    def words(self) -> list[str]:
        """What to say beside the grids."""
        lines = ["solved" if self.solved else "not solved"]
        if not self.result.in_region:
            lines.append("target out of the model's region")
        if self.answer is None:
            return [*lines, "nothing was predicted"]
        if self.grid.size == 0:
            lines.append("the answer holds no grid")
        elif self.grid.shape != self.target.shape:
            lines.append(f"{format_size(self.grid)}, should be {format_size(self.target)}")
        elif not self.solved:
            lines.append(f"{int(self.wrong_cells.sum())} of {self.target.size} cells differ")
        lines.append(f"{self.answer.votes} of {self.result.votes} votes")
        lines.append(f"halting {self.answer.halting:.2f}")
        return lines


def find_wrong_cells(grid: Grid, target: Grid) -> Mask:
    """(rows, columns) of ``grid``: which cells the target has otherwise, or has not."""
    wrong = np.ones(grid.shape, dtype=bool)
    rows, columns = min(grid.shape[0], target.shape[0]), min(grid.shape[1], target.shape[1])
    wrong[:rows, :columns] = grid[:rows, :columns] != target[:rows, :columns]
    return wrong


def read_predictions(
    folder: Path, settings: Changes | None = None, *, tasks: int = 6, only: Sequence[str] = ()
) -> tuple[Evaluated, list[Answered]]:
    """The answers of a run's newest checkpoint, as ``etrm evaluate`` with the same settings scores them.

    Everything is asked that evaluation asks, and then some of it is chosen.

    Args:
        folder: of the run.
        settings: settings of the evaluate section to change, as :func:`etrm.config.with_settings` takes them.
        tasks: how many, by id, where none are named.
        only: ids of tasks.

    Raises:
        EtrmError: see :func:`evaluate_run`; or a named task is not asked.
    """
    found = evaluate_run(folder, settings or {})
    known = [task.id for task in found.asked]
    missing = [name for name in only if name not in known]
    if missing:
        raise DataError(
            "predictions.unknown-task",
            f"task {missing[0]} is not among those that this run is evaluated on",
            allowed=", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else ""),
            next_step="change what is evaluated with --set evaluate.subset=..., .source or .max_tasks",
        )
    chosen = list(only) or sorted(known)[:tasks]
    return found, [one for name in chosen for one in _of_task(found, found.asked.get(name))]


def _of_task(found: Evaluated, task: Task) -> Iterator[Answered]:
    results = {result.query: result for result in found.report.queries if result.task_id == task.id}
    for query, candidates in enumerate(found.report.candidates[task.id]):
        yield Answered(task, query, candidates[0] if candidates else None, results[query])


def format_size(grid: Grid) -> str:
    """Rows x columns."""
    return f"{grid.shape[0]}x{grid.shape[1]}"
