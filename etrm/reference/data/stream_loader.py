"""The reference of a stream of rule tasks: one task at a time, cell by cell.

The random numbers are part of the specification (:mod:`etrm.data.rule_batches`); what is made of them is not shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from typing import Any

import numpy as np

from etrm.config import DataConfig
from etrm.data.sources import TaskSet
from etrm.data.task import Pair, Task
from etrm.reference.data.canvas import UNCHANGED
from etrm.reference.data.loader import (
    AskedPair,
    Drawing,
    ReferenceLoader,
    choose_training_tasks,
    list_asked,
    order_queries,
)
from etrm.reference.data.rule_family import (
    CONDITIONS,
    FILLED,
    LONGEST,
    SEED,
    SHIFTS,
    SHORTEST,
    PlainRule,
    list_combinations,
    list_explanations,
)

BLOCK = 512  # places of a block
LISTED = 64  # tasks of each side that stand for the stream
FIRST_BLOCKS = 2**24  # blocks from the endless stream of a seed to that of the next
SEEDS = 2**20  # endless streams
VERSION = "rule-blocks-1"


def open_reference(data: DataConfig, demonstrations: bool, seed: int) -> ReferenceLoader:
    """Return the reference of the training episodes of a data section, see :class:`ReferenceLoader`.

    Raises:
        DataError: the tasks cannot be read.
    """
    if data.stream is None:
        return ReferenceLoader(choose_training_tasks(data), data, demonstrations, seed)
    return StreamReference(list_stream_tasks(data), data, demonstrations, seed)


def list_stream_tasks(data: DataConfig) -> TaskSet:
    """Return the first tasks of every side of a stream."""
    tasks = [
        make_stream_task(data, side, number)
        for side in _list_sides(data)
        for number in range(min(LISTED, _count(data) or LISTED))
    ]
    return TaskSet(tuple(tasks), data.source, data.subset, VERSION)


class StreamReference(ReferenceLoader):
    """The episodes of a stream; ``buckets`` holds the queries of the listed tasks."""

    def draw(self, bucket: int, index: int) -> Drawing:
        """Return what stands at an index of a bucket, whose sides come in turn."""
        sides = sorted({asked.task.max_side for asked in self.buckets[bucket]})
        turn, side = index // len(sides), sides[index % len(sides)]
        total = _count(self.data)
        if total is None:
            number = turn + self.seed % SEEDS * FIRST_BLOCKS * BLOCK
        else:
            number = order_queries(self.seed, side, turn // total, total)[turn % total]
        task = make_stream_task(self.data, side, number)
        (asked,) = list_asked(task, 0, "test")
        nowhere = ((0, 0),) * (1 + len(asked.demos))
        return Drawing(asked, UNCHANGED, nowhere, 0, index * len(self.buckets) + bucket)

    def _group(self, asked: Sequence[AskedPair], groups: int) -> list[list[AskedPair]]:
        sides = sorted({found.task.max_side for found in asked})
        parts = np.array_split(sides, min(groups, len(sides)))
        return [[found for found in asked if found.task.max_side in part] for part in parts]


def _list_sides(data: DataConfig) -> range:
    largest = min(LONGEST, data.max_side, *(stage.max_side for stage in data.curriculum[-1:]))
    return range(SHORTEST, largest + 1)


def _count(data: DataConfig) -> int | None:
    """The number of tasks of a side; None if they have no end."""
    return -(-data.stream // len(_list_sides(data))) if isinstance(data.stream, int) else None


@lru_cache(maxsize=4096)
def make_stream_task(data: DataConfig, side: int, number: int) -> Task:
    """Return the task with a number of one side: the first one drawn for its place that is a task of the family."""
    combinations = list_combinations(data.source)
    parts = combinations[number % len(combinations)]
    demos = data.demos[number // len(combinations) % len(data.demos)]
    block, place = divmod(number, BLOCK)
    for turn in count():
        words = (SEED, 4, int(data.subset == "evaluation"), side, block, turn)
        numbers = [values[place] for values in _draw_numbers(words, max(data.demos) + 1, side)]
        rule, inputs = _make_rule(parts, numbers), _make_inputs(numbers)
        inputs = [*inputs[:demos], inputs[-1]]
        if rule.parts != parts or rule.held_out != (data.subset == "evaluation"):
            continue
        pairs = tuple(Pair(grid, rule.apply(grid)) for grid in inputs)
        if np.array_equal(pairs[-1].input, pairs[-1].grids[1]) or list_explanations(pairs[:-1]) != [rule]:
            continue
        name = number * (LONGEST - SHORTEST + 1) + side - SHORTEST
        return Task(f"{name:06d}-{rule.name}", pairs[:-1], pairs[-1:])
    raise AssertionError("counting has no end")


@lru_cache(maxsize=64)
def _draw_numbers(words: tuple[int, ...], grids: int, side: int) -> tuple[np.ndarray[Any, Any], ...]:
    """The random numbers of a round of a block, one entry per place, in the order of the specification."""
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
    cells = (BLOCK, grids, side, side)
    return (
        random.random((BLOCK, 9)),
        random.random((BLOCK, 9)),
        random.integers(2, 5, BLOCK),
        random.integers(1, 8, BLOCK),
        random.integers(8, size=BLOCK),
        random.integers(6, size=BLOCK),
        random.integers(1, 10, BLOCK),
        random.random(cells, np.float32),
        random.random(cells, np.float32),
    )


def _make_rule(parts: frozenset[str], numbers: list[Any]) -> PlainRule:
    order, became, size, turn, shift, condition, colour, _, _ = numbers
    palette, images = _sort_colours(order), _sort_colours(became)
    pairs = [(palette[place], images[place]) for place in range(size)]
    moves = [change for change in SHIFTS if change != (0, 0)]
    changed = all(a != b for a, b in pairs)
    return PlainRule(
        turn=int(turn) if "dihedral" in parts else 0,
        shift=moves[shift] if "shift" in parts else (0, 0),
        colours=tuple(sorted(pairs)) if "colours" in parts and changed else (),
        recolour=(CONDITIONS[condition], int(colour)) if "recolour" in parts else None,
    )


def _sort_colours(values: Sequence[float]) -> list[int]:
    return [1 + place for place in sorted(range(9), key=lambda place: values[place])]


def _make_inputs(numbers: list[Any]) -> list[np.ndarray[Any, Any]]:
    order, size, filled, cells = numbers[0], int(numbers[2]), numbers[7], numbers[8]
    palette = _sort_colours(order)
    return [
        np.array(
            [
                [
                    palette[int(which * np.float32(size))] if full < FILLED else 0
                    for full, which in zip(a, b, strict=True)
                ]
                for a, b in zip(*grids, strict=True)
            ],
            np.uint8,
        )
        for grids in zip(filled, cells, strict=True)
    ]
