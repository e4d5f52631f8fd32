"""What the rows of a batch hold, against the grids that they are said to come from.

Read from the tensors that reach the model, not from the loader's own account: tokens and places are
put back on a canvas, the augmentation that the sample's name tells is undone, and the grids must be
those of the task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
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

QUERY = "a query input that is not the task's"
LABELS = "labels that are not the query's output"
ANSWER = "a demonstration that is the query with its answer"
APART = "a demonstration of the task under another augmentation"
FOREIGN = "a demonstration of another task"
KINDS = (QUERY, LABELS, ANSWER, APART, FOREIGN)


@dataclass(frozen=True)
class Provenance:
    """What was found in some rows.

    Attributes:
        rows: that were read.
        demos: demonstrations that were read.
        wrong: rows with a problem, by its kind.
        first: the sample of the first problem, by its kind.
    """

    rows: int
    demos: int
    wrong: Counter[str]
    first: dict[str, str]


def read_rows(batches: Sequence[tuple[Batch, Sequence[Sample]]], tasks: TaskSet) -> Provenance:
    """Hold every row of some batches against the tasks.

    Args:
        batches: each with the samples whose names say what its rows are.
        tasks: that the samples are said to come from.
    """
    by_id = {task.id: task for task in tasks}
    wrong: Counter[str] = Counter()
    first: dict[str, str] = {}
    rows = demos = 0
    for batch, samples in batches:
        shown = batch.demos.owner.tolist()
        for row, sample in enumerate(samples):
            pairs = [place for place, owner in enumerate(shown) if owner == row]
            rows, demos = rows + 1, demos + len(pairs)
            for kind in problems(batch, row, pairs, sample, by_id[sample.task_id]):
                wrong[kind] += 1
                first.setdefault(kind, _in_words(sample))
    return Provenance(rows, demos, wrong, first)


def _in_words(sample: Sample) -> str:
    task, augmentation = parse_name(sample.name)
    return f"task {task}, query {sample.query}, {augmentation.words.replace(';', ',')}"


def problems(batch: Batch, row: int, pairs: Sequence[int], sample: Sample, task: Task) -> list[str]:
    """The kinds of what is wrong with one row of a batch, each once."""
    _, augmentation = parse_name(sample.name)
    asked = (task.tests + task.demos)[sample.query]
    places = batch.positions[row].numpy()
    found = []
    if not np.array_equal(augmentation.inverse(grid(batch.inputs[row].numpy(), places)), asked.input):
        found.append(QUERY)
    if asked.output is not None:
        scored = grid(batch.labels[row].numpy(), places)
        whole = augmentation.apply(asked.output)
        if not np.array_equal(scored, whole[: scored.shape[0], : scored.shape[1]]):
            found.append(LABELS)
    kinds = (_demo_problem(batch, pair, augmentation, asked, task) for pair in pairs)
    return found + sorted({kind for kind in kinds if kind is not None})


def grid(tokens: Integers, places: Integers) -> Grid:
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


def _demo_problem(batch: Batch, pair: int, augmentation: Augmentation, asked: Pair, task: Task) -> str | None:
    tokens, places = batch.demos.tokens[pair].numpy(), batch.demos.positions[pair].numpy()
    first = places < CELLS
    drawn = Pair(grid(tokens[first], places[first]), grid(tokens[~first], places[~first] - CELLS))
    assert drawn.output is not None
    plain = Pair(augmentation.inverse(drawn.input), augmentation.inverse(drawn.output))
    if plain == asked:
        return ANSWER
    if plain in task.demos:
        return None
    own = {canonical(other) for other in task.pairs}
    return APART if canonical(drawn) in own else FOREIGN
