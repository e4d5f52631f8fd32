"""The reference of the loader: which bucket a step uses, and which row stands at a place of the stream.

The random streams are part of the specification, because a run is a pure function of its config and seed:

- order of pass p over bucket b: ``Philox(SeedSequence([1, seed, b, p])).permutation(queries)``;
- episode i of bucket b: ``Philox(SeedSequence([2, seed, b, i]))`` draws the augmentation, then the shift of the query,
  then the shift of each demonstration;
- phase of the schedule: the first number of ``Philox(SeedSequence([3, seed]))``;
- fixed augmentations of a task: ``PCG64(SeedSequence([seed, *words of the SHA-256 of the task's id]))``.

A store holds what would be computed without it, so it is covered like any other source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

import numpy as np

from etrm.config import SIDE, DataConfig, is_rules
from etrm.data.sources import TaskSet, load_tasks
from etrm.data.task import Pair, Task
from etrm.reference.data.canvas import (
    CELLS,
    PAD,
    UNCHANGED,
    UNSCORED,
    GridChange,
    Integers,
    find_area,
    lay_out,
)
from etrm.reference.data.task_files import read_tasks

GOLDEN = (5**0.5 - 1) / 2
"""The step of the schedule: multiples of the golden ratio modulo 1 are spread most evenly."""


@dataclass(frozen=True, eq=False)
class AskedPair:
    """A pair whose output is to be predicted.

    Attributes:
        task: the task.
        task_index: the index of the task in its set.
        index: the index of the pair: first the test pairs, then the demonstrations.
        pair: the pair.
        demos: the demonstrations, without those that equal the pair.
    """

    task: Task
    task_index: int
    index: int
    pair: Pair
    demos: tuple[Pair, ...]

    @cached_property
    def area(self) -> tuple[int, int]:
        """The rows and columns of the region before augmentation."""
        return find_area(self.demos, self.pair.input)


@dataclass(frozen=True)
class Drawing:
    """What stands at a place of the stream, before any token is made.

    Attributes:
        asked: the query and its demonstrations.
        change: the augmentation.
        shifts: the shift of the query's grids, then that of each demonstration that is shown.
        puzzle_id: the row of the puzzle table; 0 for fresh augmentations.
        serial: the number of the episode.
    """

    asked: AskedPair
    change: GridChange
    shifts: tuple[tuple[int, int], ...]
    puzzle_id: int
    serial: int

    @property
    def name(self) -> str:
        """The name of the task under the augmentation."""
        return self.change.name(self.asked.task.id)

    @property
    def words(self) -> str:
        """The place as a report names it."""
        return f"task {self.asked.task.id}, query {self.asked.index}, episode {self.serial}"


@dataclass(frozen=True, eq=False)
class ReferenceRow:
    """One row of a batch without padding.

    Attributes:
        drawing: the query, augmentation and shifts.
        tokens: (S,) the tokens of the query input.
        positions: (S,) their positions on the canvas, 30r + c.
        labels: (S,) the tokens of the output, UNSCORED where nothing is scored.
        demos: the (L,) tokens and the (L,) positions of each demonstration.
        in_region: whether the true output fits into the region; True if it is unknown.
    """

    drawing: Drawing
    tokens: Integers
    positions: Integers
    labels: Integers
    demos: tuple[tuple[Integers, Integers], ...]
    in_region: bool


class ReferenceLoader:
    """The training episodes of a task set.

    Args:
        tasks: the training tasks.
        data: the data section.
        demonstrations: whether the model reads demonstrations; False for a table of puzzle ids.
        seed: the seed of the run.

    Attributes:
        buckets: the queries of each bucket, sorted by region size.
    """

    def __init__(self, tasks: TaskSet, data: DataConfig, demonstrations: bool, seed: int) -> None:
        self.tasks, self.data, self.seed = tasks, data, seed
        asked = [found for index, task in enumerate(tasks) for found in list_asked(task, index, data.queries)]
        if demonstrations:
            asked = [found for found in asked if found.demos]
        groups = 1 if data.canvas == "published" else data.buckets
        self._phase = float(_stream(3, seed).random())
        self._stages = [self._group(found, groups) for found in _split_stages(asked, data)]
        self.buckets = [bucket for buckets in self._stages for bucket in buckets]

    def _group(self, asked: Sequence[AskedPair], groups: int) -> list[list[AskedPair]]:
        return _make_buckets(asked, groups)

    # -- the schedule -----------------------------------------------------------------------------

    def bucket_at(self, step: int, turn: int = 1) -> int:
        """Return the bucket of a 0-based step.

        Args:
            step: the step.
            turn: the number of steps for which a bucket is kept.
        """
        place = (self._phase + step // turn * GOLDEN) % 1.0
        *ends, _ = accumulate(self._shares(self.stage_at(step, turn)))
        return sum(end <= place for end in ends)

    def stage_at(self, step: int, turn: int = 1) -> int:
        """Return the stage of the curriculum at a step, see :meth:`bucket_at`; 0 without a curriculum."""
        end = 0
        for stage, planned in enumerate(self.data.curriculum):
            end += planned.steps
            if step // turn * turn < end:
                return stage
        return max(0, len(self.data.curriculum) - 1)

    def stage_of(self, bucket: int) -> int:
        """Return the stage to which the tasks of a bucket belong."""
        *ends, _ = accumulate(len(buckets) for buckets in self._stages)
        return sum(end <= bucket for end in ends)

    def _shares(self, stage: int) -> list[float]:
        """The share of the batches of a stage that each bucket has: by its queries, of which ``replay`` are earlier."""
        earlier = [len(bucket) for buckets in self._stages[:stage] for bucket in buckets]
        own = [len(bucket) for bucket in self._stages[stage]]
        replay = self.data.replay if earlier else 0.0
        shares = [replay * size / sum(earlier) for size in earlier]
        return shares + [(1 - replay) * size / sum(own) for size in own]

    # -- the stream -------------------------------------------------------------------------------

    def draw(self, bucket: int, index: int) -> Drawing:
        """Return what stands at an index of a bucket. Every pass over the bucket has an order of its own."""
        queries = self.buckets[bucket]
        asked = queries[
            order_queries(self.seed, bucket, index // len(queries), len(queries))[index % len(queries)]
        ]
        random = _stream(2, self.seed, bucket, index)
        n = self.data.augmentations
        if n == "fresh":
            change, puzzle_id = _draw_change(random), 0
        else:
            chosen = int(random.integers(n))
            change = list_changes(asked.task.id, chosen + 1, self.seed)[chosen]
            puzzle_id = asked.task_index * n + chosen
        extents = [asked.area, *(_extent(demo) for demo in asked.demos[: self.data.max_demos])]
        shifts = [self._shift(extent, change, random) for extent in extents]
        return Drawing(asked, change, tuple(shifts), puzzle_id, index * len(self.buckets) + bucket)

    def _shift(
        self, extent: tuple[int, int], change: GridChange, random: np.random.Generator
    ) -> tuple[int, int]:
        if not self.data.translate:
            return 0, 0
        turned = extent[::-1] if change.exchanges_axes else extent
        down, right = (int(random.integers(min(self.data.translate, SIDE - side) + 1)) for side in turned)
        return down, right

    def row(self, bucket: int, index: int) -> ReferenceRow:
        """Return the tokens at an index of a bucket."""
        return make_row(self.draw(bucket, index), self.data)


def make_row(drawing: Drawing, data: DataConfig) -> ReferenceRow:
    """Return the tokens of a drawing."""
    asked, change, (shift, *shifts) = drawing.asked, drawing.change, drawing.shifts
    area = asked.area[::-1] if change.exchanges_axes else asked.area
    published = data.canvas == "published"
    rows, columns = (SIDE, SIDE) if published else (area[0] + shift[0], area[1] + shift[1])
    target = None if asked.pair.output is None else change.apply(asked.pair.output)
    labels = lay_out(target, shift)
    labels[labels == PAD] = UNSCORED
    positions = np.arange(CELLS).reshape(SIDE, SIDE)
    return ReferenceRow(
        drawing,
        tokens=lay_out(change.apply(asked.pair.input), shift)[:rows, :columns].ravel(),
        positions=positions[:rows, :columns].ravel(),
        labels=labels[:rows, :columns].ravel(),
        demos=tuple(
            _make_demo(demo, change, moved, published)
            for demo, moved in zip(asked.demos, shifts, strict=False)  # no more than max_demos are shown
        ),
        in_region=published or target is None or (target.shape[0] <= area[0] and target.shape[1] <= area[1]),
    )


def _make_demo(
    demo: Pair, change: GridChange, shift: tuple[int, int], published: bool
) -> tuple[Integers, Integers]:
    """Return tokens and positions of a pair: the canvas of its input, then that of its output."""
    both = np.concatenate([lay_out(change.apply(grid), shift).ravel() for grid in demo.grids])
    shown = np.arange(len(both)) if published else np.flatnonzero(both != PAD)
    return both[shown], shown


def list_asked(task: Task, task_index: int, which: str) -> list[AskedPair]:
    """Return the queries of a task: its test pairs (``test``), its demonstrations (``leave_one_out``), or ``all``."""
    tests = list(enumerate(task.tests))
    demos = list(enumerate(task.demos, start=len(task.tests)))
    chosen = {"test": tests, "leave_one_out": demos, "all": tests + demos}[which]
    return [
        AskedPair(task, task_index, index, pair, tuple(demo for demo in task.demos if demo != pair))
        for index, pair in chosen
    ]


@lru_cache(maxsize=64)  # a thousand augmentations of a thousand tasks would fill the memory
def list_changes(task_id: str, n: int, seed: int) -> tuple[GridChange, ...]:
    """Return the first n fixed augmentations of a task: the identity, then different random ones."""
    digest = hashlib.sha256(task_id.encode()).digest()
    words = [int.from_bytes(digest[start : start + 4], "little") for start in range(0, len(digest), 4)]
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, *words))))
    found = [UNCHANGED]
    seen = {UNCHANGED}
    while len(found) < n:
        change = _draw_change(random)
        if change not in seen:
            found.append(change)
            seen.add(change)
    return tuple(found)


def choose_training_tasks(data: DataConfig) -> TaskSet:
    """Return the training tasks of a data section: by size, the first by id, less the excluded and the too large ones.

    Raises:
        DataError: the tasks cannot be read.
    """
    found = choose_tasks_of(data.source, data.subset, data.max_side, data.max_tasks)
    kept = [task for task in found if task.id not in data.exclude]
    if data.curriculum:
        kept = [task for task in kept if _demo_side(task) <= data.curriculum[-1].max_side]
    return TaskSet(tuple(kept), found.source, found.subset, found.version)


def choose_tasks_of(
    source: str, subset: str, max_side: int, max_tasks: int | None, demos: int | None = None
) -> TaskSet:
    """Return the first tasks of a source, by id, all of whose grids fit a side.

    Raises:
        DataError: the tasks cannot be read.
    """
    if is_rules(source):  # an endless stream, of which the first tasks that fit are taken
        return load_tasks(source, subset, max_side, max_tasks, demos)
    whole = read_tasks(source, subset)
    fitting = [task for task in whole if max(max(grid.shape) for grid in task.grids) <= max_side]
    return TaskSet(
        tuple(sorted(fitting, key=lambda task: task.id)[:max_tasks]), source, subset, whole.version
    )


def _split_stages(asked: Sequence[AskedPair], data: DataConfig) -> list[list[AskedPair]]:
    """Return the queries of each stage of the curriculum: of each task, in the first stage whose side it fits."""
    if not data.curriculum:
        return [list(asked)]
    stages: list[list[AskedPair]] = [[] for _ in data.curriculum]
    for found in asked:
        side = _demo_side(found.task)
        fits = [stage for stage, planned in enumerate(data.curriculum) if side <= planned.max_side]
        if fits:
            stages[fits[0]].append(found)
    return stages


def _demo_side(task: Task) -> int:
    return max((side for demo in task.demos for side in demo.input.shape), default=0)


def _make_buckets(asked: Sequence[AskedPair], groups: int) -> list[list[AskedPair]]:
    """Return groups of equal size by rising region size; the first ones have one query more if it must be."""
    ordered = sorted(asked, key=lambda found: (found.area[0] * found.area[1], found.task.id, found.index))
    groups = min(groups, len(ordered))
    size, rest = divmod(len(ordered), groups)
    buckets, start = [], 0
    for group in range(groups):
        end = start + size + (group < rest)
        buckets.append(ordered[start:end])
        start = end
    return buckets


def _extent(demo: Pair) -> tuple[int, int]:
    rows, columns = (max(grid.shape[axis] for grid in demo.grids) for axis in (0, 1))
    return rows, columns


def _draw_change(random: np.random.Generator) -> GridChange:
    turn = int(random.integers(8))
    return GridChange(turn, (0, *(1 + int(colour) for colour in random.permutation(9))))


@lru_cache(maxsize=64)
def order_queries(seed: int, bucket: int, turn: int, queries: int) -> tuple[int, ...]:
    """Return the order of the queries in a pass."""
    return tuple(_stream(1, seed, bucket, turn).permutation(queries).tolist())


def _stream(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
