"""The sequence of training episodes. Every episode is a pure function of the config, the seed and two integers.

The state of a loader is therefore one counter per bucket, and any episode can be rebuilt from its serial number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from etrm.config import DataConfig, QueryChoice, find_stage
from etrm.data.augment import Augmentation, draw_augmentation, list_augmentations
from etrm.data.sample import DemoPair, GridLayout, Query, Sample, build, list_queries
from etrm.data.sources import TaskSet
from etrm.data.store import EpisodeStore
from etrm.data.task import Pair, Task
from etrm.errors import DataError

__all__ = ["DemoPair", "Episodes", "Sample", "build_evaluation_samples"]

# The first word of the seed of each random stream, so that no two streams share numbers.
_ORDER, _EPISODE, _SCHEDULE = 1, 2, 3
_GOLDEN = 0.6180339887498949  # its multiples, modulo 1, are spread most evenly


class Episodes:
    """The training episodes of a task set.

    Args:
        tasks: the tasks.
        data: the data section: layout, augmentation, queries and buckets.
        variant: the variant of the model; only ``trm`` needs no demonstrations.
        seed: the seed of the run.

    Attributes:
        queries: the queries, in the order of the tasks.
        skipped: the task ids of demonstrations that are not queries because their task has no other demonstration,
            one id per demonstration. It is empty for a variant that needs no demonstrations.

    Raises:
        DataError: a query has no known output, or lacks the demonstrations that the variant needs, or
            ``data.store`` is not a store of these tasks, or a stage of the curriculum has no tasks.
    """

    drawn_together = 1
    """The number of consecutive episodes of a bucket that cost hardly more than one, because they are drawn at once."""

    def __init__(self, tasks: TaskSet, data: DataConfig, variant: str, seed: int) -> None:
        self.tasks, self.data, self.variant, self.seed = tasks, data, variant, seed
        queries = _all_queries(tasks, data.queries)
        alone = {i for i, q in enumerate(queries) if variant != "trm" and q.left_out and not q.demos}
        self.skipped = tuple(queries[i].task.id for i in sorted(alone))
        self.queries = tuple(query for i, query in enumerate(queries) if i not in alone)
        if not self.queries:
            raise DataError(
                "data.no-two-demonstrations",
                f"{tasks.source}: no task has two different demonstrations, so none can be left out as a query",
                got=f"{len(tasks)} tasks",
                next_step="--set data.queries=test",
            )
        _check_answers(tasks, self.queries)
        if variant != "trm":
            _check_demos(tasks, self.queries, variant)
        self._store = self._opened_store()
        self._layout = GridLayout(data.canvas, data.max_demos, data.translate)
        self._stages = tuple(self._make_buckets(queries) for queries in self._split_by_stage())
        self._buckets = tuple(bucket for buckets in self._stages for bucket in buckets)
        self._edges = tuple(self._list_edges(stage) for stage in range(len(self._stages)))
        self._phase = float(_stream(_SCHEDULE, seed).random())

    def _opened_store(self) -> EpisodeStore | None:
        if self.data.store is None or self.data.augmentations == "fresh":
            return None
        store = EpisodeStore(self.data.store)
        store.require(self.tasks, self.data.augmentations, self.seed)
        return store

    @property
    def buckets(self) -> int:
        """The number of groups of similar region size: in each stage at most its queries, and 1 if published."""
        return len(self._buckets)

    @property
    def puzzles(self) -> int:
        """The number of rows of the puzzle table: one per task and fixed augmentation; 1 for fresh augmentations."""
        n = self.data.augmentations
        return 1 if n == "fresh" else len(self.tasks) * n

    def pass_keys(self, bucket: int) -> list[tuple[str, int]]:
        """Return the task and the query of each episode of one pass over a bucket, in any order."""
        return [(query.task.id, query.index) for query in self._buckets[bucket]]

    def tasks_of(self, samples: Sequence[Sample]) -> TaskSet:
        """Return the tasks that some samples were made of, and possibly others."""
        return self.tasks

    def bucket_queries(self, bucket: int) -> tuple[Query, ...]:
        """Return the queries of a bucket, sorted by region size."""
        return self._buckets[bucket]

    def bucket_at(self, step: int, turn: int = 1) -> int:
        """Return the bucket of a step. Its frequency is its share of the stage's queries (a golden-ratio sequence).

        Args:
            step: the 0-based step.
            turn: the number of steps for which a bucket is kept; a stage begins with the first turn after its start.
        """
        place = (self._phase + step // turn * _GOLDEN) % 1.0
        return int(np.searchsorted(self._edges[self.stage_at(step, turn)], place, side="right"))

    def stage_at(self, step: int, turn: int = 1) -> int:
        """Return the index of the curriculum's stage at a step, see :meth:`bucket_at`; 0 without a curriculum."""
        return find_stage(self.data.curriculum, step // turn * turn)

    def stage_of(self, bucket: int) -> int:
        """Return the index of the stage whose tasks a bucket holds."""
        ends = np.cumsum([len(buckets) for buckets in self._stages])
        return int(np.searchsorted(ends, bucket, side="right"))

    @property
    def stage_tasks(self) -> tuple[int, ...]:
        """The number of tasks of each stage of the curriculum; of all tasks without one."""
        return tuple(
            len({query.task.id for bucket in buckets for query in bucket}) for buckets in self._stages
        )

    def _split_by_stage(self) -> list[list[Query]]:
        """Return the queries of each stage: those whose task is too large for the stage before it."""
        if not self.data.curriculum:
            return [list(self.queries)]
        sides = [stage.max_side for stage in self.data.curriculum]
        stages: list[list[Query]] = [[] for _ in sides]
        for query in self.queries:
            if query.task.demo_side <= sides[-1]:
                stages[bisect_left(sides, query.task.demo_side)].append(query)
        if not all(stages):
            counts = [len({query.task.id for query in stage}) for stage in stages]
            raise DataError(
                "data.stage-without-tasks",
                f"{self.tasks.source}: stage {counts.index(0) + 1} of data.curriculum has no tasks",
                got=", ".join(
                    f"{count} up to side {side}" for count, side in zip(counts, sides, strict=True)
                ),
                allowed="at least one task whose demonstrations have inputs of the stage's sides",
                next_step="merge the stage with its neighbour",
            )
        return stages

    def _make_buckets(self, queries: Sequence[Query]) -> tuple[tuple[Query, ...], ...]:
        """Return the buckets of the queries of a stage."""
        return _bucketed(queries, 1 if self.data.canvas == "published" else self.data.buckets)

    def _list_edges(self, stage: int) -> npt.NDArray[np.float64]:
        """Return where buckets end in [0, 1) in a stage: those of earlier stages at ``data.replay``, its own at 1."""
        earlier = np.cumsum([len(bucket) for buckets in self._stages[:stage] for bucket in buckets])
        own = np.cumsum([len(bucket) for bucket in self._stages[stage]])
        replay = self.data.replay if stage else 0.0
        replayed = replay * earlier / earlier[-1] if stage else earlier
        edges = np.concatenate((replayed, replay + (1 - replay) * own / own[-1]))
        return edges[:-1]

    def sample(self, bucket: int, index: int) -> Sample:
        """Return the ``index``-th episode of a bucket. The bucket is shuffled again for every pass over it."""
        queries = self._buckets[bucket]
        epoch, place = divmod(index, len(queries))
        query = queries[order_of_pass(self.seed, bucket, epoch, len(queries))[place]]
        rng = _stream(_EPISODE, self.seed, bucket, index)
        augmentation, puzzle_id, augmented = self._augmentation(query, rng)
        serial = index * self.buckets + bucket
        return build(
            query, augmentation, self._layout, rng, serial=serial, puzzle_id=puzzle_id, augmented=augmented
        )

    def rebuild(self, serial: int) -> Sample:
        """Return the episode with a serial number."""
        index, bucket = divmod(serial, self.buckets)
        return self.sample(bucket, index)

    def _augmentation(
        self, query: Query, rng: np.random.Generator
    ) -> tuple[Augmentation, int, Callable[[Pair], Pair]]:
        """Return the augmentation of an episode, its row in the puzzle table, and the source of its augmented pairs."""
        n = self.data.augmentations
        if n == "fresh":
            augmentation = draw_augmentation(rng)
            return augmentation, 0, augmentation.pair
        chosen = int(rng.integers(n))
        puzzle_id = query.task_index * n + chosen
        if self._store is None:
            augmentation = list_augmentations(query.task.id, n, self.seed)[chosen]
            return augmentation, puzzle_id, augmentation.pair
        shard = self._store.shard(query.task)
        return shard.augmentation(chosen), puzzle_id, shard.pairs(query.task, chosen).__getitem__


def build_episode(task: Task, query: int, number: int, seed: int) -> tuple[Query, Sample]:
    """Return one query of a task under one of its fixed augmentations, as evaluation would lay it out.

    Args:
        task: the task.
        query: the index of the query: first the test pairs, then the demonstrations (each with the others as context).
        number: the number of the augmentation; 0 is the identity.
        seed: the seed of the run.

    Raises:
        DataError: the task has no such query.
    """
    queries = list_queries(task, 0, "all")
    if not 0 <= query < len(queries):
        raise DataError(
            "data.unknown-query",
            f"task {task.id} has no query {query}",
            allowed=f"0 to {len(queries) - 1}: first its {len(task.tests)} test pairs, then its {len(task.demos)} "
            "demonstrations, each left out in turn",
        )
    data, augmentation = DataConfig(), list_augmentations(task.id, number + 1, seed)[number]
    layout = GridLayout(data.canvas, data.max_demos)
    return queries[query], build(queries[query], augmentation, layout, serial=0)


def build_evaluation_samples(
    tasks: TaskSet,
    data: DataConfig,
    augmentations: int,
    seed: int,
    *,
    variant: str = "etrm",
    trained: TaskSet | None = None,
) -> list[Sample]:
    """Return every test query under its first fixed augmentations, the identity first, without shifts.

    Args:
        tasks: the tasks to evaluate; their outputs may be unknown.
        data: the data section on which the model was trained, for the layout.
        augmentations: the number of votes per query.
        seed: the seed of the run, so that a puzzle table has rows for the same augmentations.
        variant: the variant of the model; only ``trm`` needs no demonstrations.
        trained: the task set of the puzzle table, from which puzzle ids are taken.

    Raises:
        DataError: a query lacks the demonstrations that the variant needs, or the puzzle table has no row for it.
    """
    queries = _all_queries(tasks, "test")
    if variant != "trm":
        _check_demos(tasks, queries, variant)
    layout = GridLayout(data.canvas, data.max_demos)
    first_ids = find_puzzle_rows(tasks, data, augmentations, trained)
    samples: list[Sample] = []
    for query in queries:
        for number, augmentation in enumerate(list_augmentations(query.task.id, augmentations, seed)):
            puzzle_id = first_ids[query.task.id] + number if first_ids else 0
            samples.append(build(query, augmentation, layout, serial=len(samples), puzzle_id=puzzle_id))
    return samples


def find_puzzle_rows(
    tasks: TaskSet, data: DataConfig, augmentations: int, trained: TaskSet | None
) -> dict[str, int]:
    """Return the puzzle id of each task under the identity; empty if there is no table.

    Args:
        tasks: the tasks to evaluate.
        data: the data section on which the model was trained.
        augmentations: the number of votes per query.
        trained: the task set of the puzzle table, None where the model has no table.

    Raises:
        DataError: the table has no row for a task or an augmentation.
    """
    if trained is None:
        return {}
    n = data.augmentations
    if n == "fresh" or augmentations > n:
        raise DataError(
            "data.untrained-augmentations",
            "the puzzle table has no rows for these augmentations",
            got=f"evaluate.augmentations {augmentations}",
            allowed=f"at most data.augmentations {n}",
            next_step="--set evaluate.augmentations=N, with at most this number",
        )
    rows = {task.id: index * n for index, task in enumerate(trained)}
    unknown = [task.id for task in tasks if task.id not in rows]
    if unknown:
        raise DataError(
            "data.untrained-tasks",
            f"the puzzle table has no row for {len(unknown)} tasks, because they were not trained on",
            got=", ".join(unknown[:5]),
            allowed="for model.variant trm: tasks whose demonstrations it was trained on",
            next_step="ask tasks that it was trained on, or train with an encoder: --set model.variant=etrm",
        )
    return rows


def _all_queries(tasks: TaskSet, asked: QueryChoice) -> tuple[Query, ...]:
    return tuple(query for index, task in enumerate(tasks) for query in list_queries(task, index, asked))


def _check_answers(tasks: TaskSet, queries: Sequence[Query]) -> None:
    unknown = [query.task.id for query in queries if query.pair.output is None]
    if unknown:
        raise DataError(
            "data.unknown-outputs",
            f"{tasks.source}: {len(unknown)} test outputs are unknown, so the model cannot be trained on them",
            got=", ".join(unknown[:5]),
            next_step="put the solutions file next to the challenges file, or train on another source",
        )


def _check_demos(tasks: TaskSet, queries: Sequence[Query], variant: str) -> None:
    bare = [query.task.id for query in queries if not query.demos]
    if bare:
        raise DataError(
            "data.no-demonstrations",
            f"{tasks.source}: {len(bare)} queries have no demonstration other than themselves, but model.variant "
            f"{variant} needs demonstrations",
            got=", ".join(bare[:5]),
            next_step="remove those tasks, or use --set model.variant=trm",
        )


def _bucketed(queries: Sequence[Query], buckets: int) -> tuple[tuple[Query, ...], ...]:
    """Return groups of equal size, in the order of region size; no group is empty."""
    ordered = sorted(queries, key=lambda q: (q.region[0] * q.region[1], q.task.id, q.index))
    parts = np.array_split(np.arange(len(ordered)), min(buckets, len(ordered)))
    return tuple(tuple(ordered[i] for i in part) for part in parts)


@lru_cache(maxsize=64)
def order_of_pass(seed: int, bucket: int, epoch: int, n: int) -> npt.NDArray[np.int64]:
    """Return the order of one pass over n queries."""
    return _stream(_ORDER, seed, bucket, epoch).permutation(n)


def _stream(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
