"""The rows of a batch, compared with the grids of their tasks.

The comparison reads the tensors that reach the model, not the records of the loader: tokens and positions are put back
on a canvas, the augmentation in the name of the sample is undone, and the grids must be those of the task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from etrm.batch import Batch
from etrm.config import SIDE
from etrm.data import Sample, TaskSet
from etrm.data.augment import Augmentation, dihedral, parse_name
from etrm.data.sample import CELLS
from etrm.data.task import Grid, Pair, Task
from etrm.data.tokens import FIRST_COLOUR

Integers = npt.NDArray[np.integer]


class RowProblem(StrEnum):
    """What can be wrong with a row."""

    TASK = "h5.row-of-no-task"
    QUERY = "h5.query-of-another-task"
    LABELS = "h5.labels-of-another-query"
    ANSWER = "h5.query-among-its-demonstrations"
    APART = "h5.demonstration-under-another-augmentation"
    FOREIGN = "h5.demonstration-of-another-task"
    COUNT = "h5.demonstrations-left-out-or-repeated"
    PLACE = "h5.output-out-of-place"

    @property
    def words(self) -> str:
        """The problem as a report names it."""
        return _WORDS[self]


_WORDS = {
    RowProblem.TASK: "a task that is not in the set",
    RowProblem.QUERY: "a query input that is not the task's",
    RowProblem.LABELS: "labels that are not the query's output",
    RowProblem.ANSWER: "a demonstration that is the query with its answer",
    RowProblem.APART: "a demonstration of the task under another augmentation",
    RowProblem.FOREIGN: "a demonstration of another task",
    RowProblem.COUNT: "demonstrations of the task left out or shown twice",
    RowProblem.PLACE: "an output in another place than its input",
}


@dataclass(frozen=True)
class RowProvenance:
    """What was found in some rows.

    Attributes:
        rows: number of rows that were read.
        demos: number of demonstrations that were read.
        wrong: number of rows with a problem, by its kind.
        first: the sample of the first problem, by its kind.
    """

    rows: int
    demos: int
    wrong: Counter[RowProblem]
    first: dict[RowProblem, str]


def read_rows(
    batches: Sequence[tuple[Batch, Sequence[Sample]]], tasks: TaskSet, max_demos: int
) -> RowProvenance:
    """Compare every row of some batches with the tasks.

    Args:
        batches: the batches, each with the samples whose names identify its rows.
        tasks: the tasks that the samples name.
        max_demos: largest number of demonstrations of a row.
    """
    by_id = {task.id: task for task in tasks}
    wrong: Counter[RowProblem] = Counter()
    first: dict[RowProblem, str] = {}
    rows = demos = 0
    for batch, samples in batches:
        shown = batch.demos.owner.tolist()
        for row, sample in enumerate(samples):
            pairs = [place for place, owner in enumerate(shown) if owner == row]
            rows, demos = rows + 1, demos + len(pairs)
            task = by_id.get(sample.task_id)
            kinds = find_problems(batch, row, pairs, sample, task, max_demos) if task else [RowProblem.TASK]
            for kind in kinds:
                wrong[kind] += 1
                first.setdefault(kind, _name_sample(sample))
    return RowProvenance(rows, demos, wrong, first)


def _name_sample(sample: Sample) -> str:
    task, augmentation = parse_name(sample.name)
    return f"task {task}, query {sample.query}, {augmentation.words.replace(';', ',')}"


def find_problems(
    batch: Batch, row: int, pairs: Sequence[int], sample: Sample, task: Task, max_demos: int
) -> list[RowProblem]:
    """The kinds of problems of one row of a batch, each once."""
    _, augmentation = parse_name(sample.name)
    query = (task.tests + task.demos)[sample.query]
    places, inputs = batch.positions[row].numpy(), batch.inputs[row].numpy()
    found: list[RowProblem] = []
    if not np.array_equal(augmentation.inverse(read_grid(inputs, places)), query.input):
        found.append(RowProblem.QUERY)
    if query.output is not None:
        whole = augmentation.apply(query.output)
        height, width = _room(inputs, places)
        if not np.array_equal(read_grid(batch.labels[row].numpy(), places), whole[:height, :width]):
            found.append(RowProblem.LABELS)
    shown = [_demo(batch, pair) for pair in pairs]
    found += sorted({kind for demo in shown if (kind := _demo_problem(demo, augmentation, query, task))})
    plain = Counter(_undone(demo, augmentation) for demo in shown)
    own = Counter(demo for demo in task.demos if demo != query)
    too_often = any(plain[demo] > own[demo] for demo in own)
    if too_often or len(shown) != min(own.total(), max_demos):
        found.append(RowProblem.COUNT)
    corners = [(_corner(inputs, places), _corner(batch.labels[row].numpy(), places))]
    corners += [_demo_corners(batch, pair) for pair in pairs]
    apart = any(first != second for first, second in corners if first is not None and second is not None)
    return found + ([RowProblem.PLACE] if apart else [])


def _corner(tokens: Integers, places: Integers) -> tuple[int, int] | None:
    """First row and first column of the colours among some tokens; None without one."""
    rows, columns = np.divmod(places[tokens >= FIRST_COLOUR], SIDE)
    return (int(rows.min()), int(columns.min())) if len(rows) else None


def _demo_corners(batch: Batch, pair: int) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    (tokens, places), (there, second) = _halves(batch, pair)
    return _corner(tokens, places), _corner(there, second)


def _room(inputs: Integers, places: Integers) -> tuple[int, int]:
    """Rows and columns that the places of a row give an output, whose top-left is the input's."""
    rows, columns = np.divmod(places, SIDE)
    colour = inputs >= FIRST_COLOUR
    if not colour.any():
        return 0, 0
    return int(rows.max() - rows[colour].min()) + 1, int(columns.max() - columns[colour].min()) + 1


def read_grid(tokens: Integers, places: Integers) -> Grid:
    """The smallest rectangle that holds every colour among some tokens; black where it has none."""
    colour = tokens >= FIRST_COLOUR
    if not colour.any():
        return np.zeros((0, 0), dtype=np.uint8)
    rows, columns = np.divmod(places[colour], SIDE)
    canvas = np.zeros((SIDE, SIDE), dtype=np.uint8)
    canvas[rows, columns] = tokens[colour] - FIRST_COLOUR
    return canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


@lru_cache(maxsize=4096)
def canonical(pair: Pair) -> bytes:
    """The same for a pair under every augmentation: the least of its eight turns, colours in order of appearance."""
    return min(_renumbered([dihedral(grid, turn) for grid in pair.grids]) for turn in range(8))


def _renumbered(grids: Sequence[Grid]) -> bytes:
    flat = np.concatenate([grid.ravel() for grid in grids])
    _, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
    names = np.argsort(np.argsort(first)).astype(np.uint8)[inverse]
    return str([grid.shape for grid in grids]).encode() + names.tobytes()


def _demo(batch: Batch, pair: int) -> Pair:
    """The grids of a demonstration as the encoder sees them."""
    first, second = _halves(batch, pair)
    return Pair(read_grid(*first), read_grid(*second))


def _halves(batch: Batch, pair: int) -> tuple[tuple[Integers, Integers], tuple[Integers, Integers]]:
    """Tokens and places of a demonstration's input, and of its output."""
    tokens, places = batch.demos.tokens[pair].numpy(), batch.demos.positions[pair].numpy()
    first = places < CELLS
    return (tokens[first], places[first]), (tokens[~first], places[~first] - CELLS)


def _undone(demo: Pair, augmentation: Augmentation) -> Pair:
    assert demo.output is not None
    return Pair(augmentation.inverse(demo.input), augmentation.inverse(demo.output))


def _demo_problem(demo: Pair, augmentation: Augmentation, query: Pair, task: Task) -> RowProblem | None:
    plain = _undone(demo, augmentation)
    if plain == query:
        return RowProblem.ANSWER
    if plain in task.demos:
        return None
    own = {canonical(other) for other in task.pairs}
    return RowProblem.APART if canonical(demo) in own else RowProblem.FOREIGN
