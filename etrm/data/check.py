"""Count the contents of a task set and find problems in it: the work of ``etrm data check``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from etrm.data.region import holds
from etrm.data.sample import Query, list_queries
from etrm.data.sources import TaskSet
from etrm.data.task import Grid, Task


@dataclass(frozen=True)
class RegionSummary:
    """How well the region rule fits the test queries.

    Attributes:
        mean_tokens: the mean size of a region, rows times columns.
        max_tokens: the largest size of a region.
        answered: the number of queries whose output is known.
        inside: the number of those whose output fits into the region.
        outside: the names of the others, as ``task id[query]``.
    """

    mean_tokens: float
    max_tokens: int
    answered: int
    inside: int
    outside: tuple[str, ...]

    @property
    def share_inside(self) -> float | None:
        """The share of the known outputs that fit into the region; None if no output is known."""
        return self.inside / self.answered if self.answered else None


@dataclass(frozen=True)
class TaskSetSummary:
    """The counts of a task set.

    Attributes:
        source, subset, version, hash: see :class:`etrm.data.sources.TaskSet`.
        tasks: the number of tasks.
        queries: the number of test queries.
        demos: the number of demonstrations.
        mean_demos: the mean number of demonstrations per task.
        left_out: the number of demonstrations that can be queries, with the others of their task as context.
        not_left_out: the task ids of the other demonstrations, one id per demonstration; their tasks have no other.
        mean_cells: the mean number of cells per grid.
        max_side: the longest side of any grid.
        sides: the number of tasks by the longest side of their grids.
        demo_sides: the number of tasks by the longest side of their demonstrations' inputs.
        region: the fit of the region rule, see :class:`RegionSummary`.
        problems: one sentence per problem.
    """

    source: str
    subset: str
    version: str
    hash: str
    tasks: int
    queries: int
    demos: int
    mean_demos: float
    left_out: int
    not_left_out: tuple[str, ...]
    mean_cells: float
    max_side: int
    sides: dict[int, int]
    demo_sides: dict[int, int]
    region: RegionSummary
    problems: tuple[str, ...]


def describe(tasks: TaskSet) -> TaskSetSummary:
    """Count the contents of a task set and find its problems."""
    queries = [query for index, task in enumerate(tasks) for query in list_queries(task, index)]
    left_out = [q for index, task in enumerate(tasks) for q in list_queries(task, index, "leave_one_out")]
    cells = [grid.size for task in tasks for grid in task.grids]
    demos = sum(len(task.demos) for task in tasks)
    sides = Counter(task.max_side for task in tasks)
    return TaskSetSummary(
        source=tasks.source,
        subset=tasks.subset,
        version=tasks.version,
        hash=tasks.hash,
        tasks=len(tasks),
        queries=len(queries),
        demos=demos,
        mean_demos=demos / len(tasks),
        left_out=sum(bool(query.demos) for query in left_out),
        not_left_out=tuple(query.task.id for query in left_out if not query.demos),
        mean_cells=sum(cells) / len(cells),
        max_side=max(sides),
        sides=dict(sorted(sides.items())),
        demo_sides=dict(sorted(Counter(task.demo_side for task in tasks).items())),
        region=_regions(queries),
        problems=tuple(_problems(tasks)),
    )


def _regions(queries: list[Query]) -> RegionSummary:
    sizes = [query.region[0] * query.region[1] for query in queries]
    known = [(query, query.pair.output) for query in queries if query.pair.output is not None]
    outside = tuple(f"{query.task.id}[{query.index}]" for query, out in known if not holds(query.region, out))
    return RegionSummary(
        mean_tokens=sum(sizes) / len(sizes),
        max_tokens=max(sizes),
        answered=len(known),
        inside=len(known) - len(outside),
        outside=outside,
    )


def _problems(tasks: TaskSet) -> Iterator[str]:
    same: dict[str, str] = {}
    for task in tasks:
        yield from _task_problems(task)
        if task.hash in same:
            yield f"{task.id} has the same pairs as {same[task.hash]}"
        same.setdefault(task.hash, task.id)


def _task_problems(task: Task) -> Iterator[str]:
    unknown = sum(pair.output is None for pair in task.tests)
    if unknown:
        yield f"{task.id}: {unknown} test outputs are unknown"
    for number, pair in enumerate(task.tests):
        if pair in task.demos:
            yield f"{task.id}: test pair {number} is also a demonstration"
    outputs: dict[bytes, set[bytes]] = {}
    for pair in task.pairs:
        if pair.output is not None:
            outputs.setdefault(_key(pair.input), set()).add(_key(pair.output))
    if any(len(found) > 1 for found in outputs.values()):
        yield f"{task.id}: one input has two different outputs"


def _key(grid: Grid) -> bytes:
    return bytes(grid.shape) + grid.tobytes()
