"""What a task set holds, counted, and what in it is odd: the body of ``etrm data check``."""

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
        mean_tokens: mean of rows times columns.
        max_tokens: the largest.
        answered: queries whose output is known.
        inside: those whose output lies inside.
        outside: the others, as ``task id[query]``.
    """

    mean_tokens: float
    max_tokens: int
    answered: int
    inside: int
    outside: tuple[str, ...]

    @property
    def share_inside(self) -> float | None:
        """Share of the known outputs that lie inside; None where none is known."""
        return self.inside / self.answered if self.answered else None


@dataclass(frozen=True)
class TaskSetSummary:
    """The counts of a task set.

    Attributes:
        source, subset, version, hash: see :class:`etrm.data.sources.TaskSet`.
        tasks: number of tasks.
        queries: number of test queries.
        demos: number of demonstrations.
        mean_demos: per task.
        left_out: demonstrations that can be asked for, given the others of their task.
        not_left_out: those whose task has no other; ids, one for each.
        mean_cells: per grid.
        max_side: longest side of any grid.
        sides: number of tasks by the longest side of their grids.
        region: see :class:`RegionSummary`.
        problems: one sentence for each oddity.
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
    region: RegionSummary
    problems: tuple[str, ...]


def describe(tasks: TaskSet) -> TaskSetSummary:
    """Count a task set."""
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
            yield f"{task.id} holds the same pairs as {same[task.hash]}"
        same.setdefault(task.hash, task.id)


def _task_problems(task: Task) -> Iterator[str]:
    unknown = sum(pair.output is None for pair in task.tests)
    if unknown:
        yield f"{task.id}: {unknown} test outputs are unknown"
    for number, pair in enumerate(task.tests):
        if pair in task.demos:
            yield f"{task.id}: test pair {number} stands among the demonstrations"
    outputs: dict[bytes, set[bytes]] = {}
    for pair in task.pairs:
        if pair.output is not None:
            outputs.setdefault(_key(pair.input), set()).add(_key(pair.output))
    if any(len(found) > 1 for found in outputs.values()):
        yield f"{task.id}: one input has two different outputs"


def _key(grid: Grid) -> bytes:
    return bytes(grid.shape) + grid.tobytes()
