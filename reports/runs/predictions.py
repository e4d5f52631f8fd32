"""The answers of a run to test queries, with the inputs and the true outputs."""

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
from reports.grid_drawing import format_size

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Answered:
    """One test query and its first answer, which pass@1 scores.

    Attributes:
        task: the task.
        query: the index of the test pair.
        answer: the answer with the most votes; None if nothing was predicted.
        result: the result of the evaluation.
    """

    task: Task
    query: int
    answer: Candidate | None
    result: QueryResult

    @property
    def pair(self) -> Pair:
        """The input and the true output."""
        return self.task.tests[self.query]

    @property
    def target(self) -> Grid:
        """The true output."""
        assert self.pair.output is not None, "a scored query has its output"
        return self.pair.output

    @property
    def grid(self) -> Grid:
        """The predicted grid; its shape is (0, 0) if there is no answer, or the answer contains no grid."""
        return np.zeros((0, 0), np.uint8) if self.answer is None else self.answer.grid

    @property
    def solved(self) -> bool:
        """Whether the query counts as solved at the first attempt."""
        return self.result.solved(1)

    @property
    def wrong_cells(self) -> Mask:
        """(rows, columns) bool: the cells of the answer that differ from the target or are outside it."""
        return find_wrong_cells(self.grid, self.target)

    def words(self) -> list[str]:
        """The lines of text next to the grids."""
        lines = ["solved" if self.solved else "not solved"]
        if not self.result.in_region:
            lines.append("target does not fit the model's region")
        if self.answer is None:
            return [*lines, "nothing was predicted"]
        if self.grid.size == 0:
            lines.append("the answer contains no grid")
        elif self.grid.shape != self.target.shape:
            lines.append(f"{format_size(self.grid)}, should be {format_size(self.target)}")
        elif not self.solved:
            lines.append(f"{int(self.wrong_cells.sum())} of {self.target.size} cells differ")
        lines.append(f"{self.answer.votes} of {self.result.votes} votes")
        lines.append(f"halting {self.answer.halting:.2f}")
        return lines


def find_wrong_cells(grid: Grid, target: Grid) -> Mask:
    """Return (rows, columns) bool: the cells of ``grid`` that differ from the target or are outside it."""
    wrong = np.ones(grid.shape, dtype=bool)
    rows, columns = min(grid.shape[0], target.shape[0]), min(grid.shape[1], target.shape[1])
    wrong[:rows, :columns] = grid[:rows, :columns] != target[:rows, :columns]
    return wrong


def read_predictions(
    folder: Path, settings: Changes | None = None, *, tasks: int = 6, only: Sequence[str] = ()
) -> tuple[Evaluated, list[Answered]]:
    """Return answers of a run's newest checkpoint, as ``etrm evaluate`` with the same settings scores them.

    All tasks of the evaluation are predicted, and then some are selected.

    Args:
        folder: the run folder.
        settings: the settings of the evaluate section to change, as :func:`etrm.config.with_settings` takes them.
        tasks: the number of tasks to return, the first by id, if ``only`` is empty.
        only: the ids of the tasks to return.

    Raises:
        EtrmError: see :func:`evaluate_run`; or a task in ``only`` is not evaluated.
    """
    found = evaluate_run(folder, settings or {})
    known = [task.id for task in found.held_out]
    missing = [name for name in only if name not in known]
    if missing:
        raise DataError(
            "predictions.unknown-task",
            f"the task {missing[0]} is not among the evaluation tasks of this run",
            allowed=", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else ""),
            next_step="change the evaluation tasks with --set evaluate.subset=..., .source or .max_tasks",
        )
    chosen = list(only) or sorted(known)[:tasks]
    return found, [one for name in chosen for one in _of_task(found, found.held_out.get(name))]


def _of_task(found: Evaluated, task: Task) -> Iterator[Answered]:
    results = {result.query: result for result in found.report.queries if result.task_id == task.id}
    for query, candidates in enumerate(found.report.candidates[task.id]):
        yield Answered(task, query, candidates[0] if candidates else None, results[query])
