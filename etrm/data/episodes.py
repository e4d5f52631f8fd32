"""Which episode comes when: every one is a pure function of the config, the seed and two integers.

So the state of a loader is one counter per bucket, and any episode can be drawn again from its
serial number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from etrm.config import Asked, DataConfig
from etrm.data.augment import Augmentation, draw_augmentation, list_augmentations
from etrm.data.sample import DemoPair, GridLayout, Query, Sample, build, list_queries
from etrm.data.sources import TaskSet
from etrm.data.store import EpisodeStore
from etrm.data.task import Pair, Task
from etrm.errors import DataError

__all__ = ["DemoPair", "Episodes", "Sample", "build_evaluation_samples"]

# First word of each random stream, so that no two draws share numbers.
_ORDER, _EPISODE, _SCHEDULE = 1, 2, 3
_GOLDEN = 0.6180339887498949  # its multiples, modulo 1, are spread most evenly


class Episodes:
    """The training episodes of a task set.

    Args:
        tasks: the tasks.
        data: layout, augmentation, queries and buckets.
        variant: of the model; only ``trm`` does without demonstrations.
        seed: of the run.

    Attributes:
        queries: what is asked, in the order of the tasks.
        skipped: ids of tasks, one for every demonstration that is not asked because, but for itself,
            its task has none (variants that need demonstrations only).

    Raises:
        DataError: a query has no known output, or no demonstration where the variant needs one, or
            ``data.store`` is no store of these tasks.
    """

    def __init__(self, tasks: TaskSet, data: DataConfig, variant: str, seed: int) -> None:
        self.tasks, self.data, self.variant, self.seed = tasks, data, variant, seed
        queries = _all_queries(tasks, data.queries)
        alone = {i for i, q in enumerate(queries) if variant != "trm" and q.left_out and not q.demos}
        self.skipped = tuple(queries[i].task.id for i in sorted(alone))
        self.queries = tuple(query for i, query in enumerate(queries) if i not in alone)
        if not self.queries:
            raise DataError(
                "data.no-two-demonstrations",
                f"{tasks.source}: no task has two different demonstrations, so none can be left out",
                got=f"{len(tasks)} tasks",
                next_step="--set data.queries=test",
            )
        _check_answers(tasks, self.queries)
        if variant != "trm":
            _check_demos(tasks, self.queries, variant)
        self._store = self._opened_store()
        self._layout = GridLayout(data.canvas, data.max_demos, data.translate)
        self._buckets = _bucketed(self.queries, 1 if data.canvas == "published" else data.buckets)
        shares = np.cumsum([len(bucket) for bucket in self._buckets]) / len(self.queries)
        self._edges = shares[:-1]
        self._phase = float(_stream(_SCHEDULE, seed).random())

    def _opened_store(self) -> EpisodeStore | None:
        if self.data.store is None or self.data.augmentations == "fresh":
            return None
        store = EpisodeStore(self.data.store)
        store.require(self.tasks, self.data.augmentations, self.seed)
        return store

    @property
    def buckets(self) -> int:
        """Number of groups of similar region size; never more than queries, 1 on the published canvas."""
        return len(self._buckets)

    @property
    def puzzles(self) -> int:
        """Rows of the puzzle table: one per task and fixed augmentation, 1 under fresh ones."""
        n = self.data.augmentations
        return 1 if n == "fresh" else len(self.tasks) * n

    def bucket_queries(self, bucket: int) -> tuple[Query, ...]:
        """The queries of a bucket, by region size."""
        return self._buckets[bucket]

    def bucket_at(self, step: int) -> int:
        """The bucket of a step, each as often as its share of the queries (a golden-ratio sequence)."""
        place = (self._phase + step * _GOLDEN) % 1.0
        return int(np.searchsorted(self._edges, place, side="right"))

    def sample(self, bucket: int, index: int) -> Sample:
        """The ``index``-th episode of a bucket: a pass over a shuffled bucket, then the next."""
        queries = self._buckets[bucket]
        epoch, place = divmod(index, len(queries))
        query = queries[_order(self.seed, bucket, epoch, len(queries))[place]]
        rng = _stream(_EPISODE, self.seed, bucket, index)
        augmentation, puzzle_id, augmented = self._augmentation(query, rng)
        serial = index * self.buckets + bucket
        return build(
            query, augmentation, self._layout, rng, serial=serial, puzzle_id=puzzle_id, augmented=augmented
        )

    def rebuild(self, serial: int) -> Sample:
        """The episode of that serial number."""
        index, bucket = divmod(serial, self.buckets)
        return self.sample(bucket, index)

    def _augmentation(
        self, query: Query, rng: np.random.Generator
    ) -> tuple[Augmentation, int, Callable[[Pair], Pair]]:
        """The augmentation of an episode, its row in the puzzle table, and where the pairs under it come from."""
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
    """One query of a task under one of its fixed augmentations, as evaluation would ask it.

    Args:
        task: the task.
        query: index among its tests, then its demonstrations (each given the others).
        number: of the augmentation; 0 is the identity.
        seed: of the run.

    Raises:
        DataError: the task has no such query.
    """
    queries = list_queries(task, 0, "all")
    if not 0 <= query < len(queries):
        raise DataError(
            "data.unknown-query",
            f"task {task.id} has no query {query}",
            allowed=f"0 to {len(queries) - 1}: its {len(task.tests)} tests, then its {len(task.demos)} "
            "demonstrations, each left out",
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
    """Every test query under its first fixed augmentations, the identity first, nothing shifted.

    Args:
        tasks: what is asked; outputs may be unknown.
        data: the layout that the model was trained on.
        augmentations: votes per query.
        seed: of the run, so that a puzzle table finds the augmentations that it was trained on.
        variant: of the model; only ``trm`` does without demonstrations.
        trained: the task set of the puzzle table, from which puzzle ids are taken.

    Raises:
        DataError: a query has no demonstration where the variant needs one, or the puzzle table
            has no row for it.
    """
    queries = _all_queries(tasks, "test")
    if variant != "trm":
        _check_demos(tasks, queries, variant)
    layout = GridLayout(data.canvas, data.max_demos)
    first_ids = _puzzle_rows(tasks, data, augmentations, trained)
    samples: list[Sample] = []
    for query in queries:
        for number, augmentation in enumerate(list_augmentations(query.task.id, augmentations, seed)):
            puzzle_id = first_ids[query.task.id] + number if first_ids else 0
            samples.append(build(query, augmentation, layout, serial=len(samples), puzzle_id=puzzle_id))
    return samples


def _puzzle_rows(
    tasks: TaskSet, data: DataConfig, augmentations: int, trained: TaskSet | None
) -> dict[str, int]:
    """The puzzle id of each task's identity; empty without a table."""
    if trained is None:
        return {}
    n = data.augmentations
    if n == "fresh" or augmentations > n:
        raise DataError(
            "data.untrained-augmentations",
            "the puzzle table has no rows for these augmentations",
            got=f"evaluate.augmentations {augmentations}",
            allowed=f"at most data.augmentations {n}",
        )
    rows = {task.id: index * n for index, task in enumerate(trained)}
    unknown = [task.id for task in tasks if task.id not in rows]
    if unknown:
        raise DataError(
            "data.untrained-tasks",
            f"{len(unknown)} tasks were never trained on, so the puzzle table has no row for them",
            got=", ".join(unknown[:5]),
            next_step="a model of variant trm only answers tasks whose demonstrations it was trained on",
        )
    return rows


def _all_queries(tasks: TaskSet, asked: Asked) -> tuple[Query, ...]:
    return tuple(query for index, task in enumerate(tasks) for query in list_queries(task, index, asked))


def _check_answers(tasks: TaskSet, queries: Sequence[Query]) -> None:
    unknown = [query.task.id for query in queries if query.pair.output is None]
    if unknown:
        raise DataError(
            "data.unknown-outputs",
            f"{tasks.source}: {len(unknown)} test outputs are unknown, so they cannot be trained on",
            got=", ".join(unknown[:5]),
            next_step="put the solutions file next to the challenges file, or train on another source",
        )


def _check_demos(tasks: TaskSet, queries: Sequence[Query], variant: str) -> None:
    bare = [query.task.id for query in queries if not query.demos]
    if bare:
        raise DataError(
            "data.no-demonstrations",
            f"{tasks.source}: {len(bare)} queries have no demonstration but themselves, "
            f"and variant {variant} knows a task by its demonstrations alone",
            got=", ".join(bare[:5]),
            next_step="remove those tasks, or use variant trm",
        )


def _bucketed(queries: Sequence[Query], buckets: int) -> tuple[tuple[Query, ...], ...]:
    """Equal groups of rising region size, none of them empty."""
    ordered = sorted(queries, key=lambda q: (q.region[0] * q.region[1], q.task.id, q.index))
    parts = np.array_split(np.arange(len(ordered)), min(buckets, len(ordered)))
    return tuple(tuple(ordered[i] for i in part) for part in parts)


@lru_cache(maxsize=64)
def _order(seed: int, bucket: int, epoch: int, n: int) -> npt.NDArray[np.int64]:
    return _stream(_ORDER, seed, bucket, epoch).permutation(n)


def _stream(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
