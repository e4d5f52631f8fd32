from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from etrm.data import Pair, Task, TaskSet, describe


def test_counts_of_a_published_set(published: Callable[..., TaskSet]) -> None:
    tasks = published("arc-agi-1", "training", max_side=10)
    found = describe(tasks)
    assert (found.source, found.version, found.hash) == ("arc-agi-1", "aa922be", tasks.hash)
    assert (found.tasks, found.queries, found.demos) == (178, 190, sum(len(task.demos) for task in tasks))
    assert found.region.mean_tokens == pytest.approx(80.23, abs=0.01)
    assert found.region.share_inside == 1
    assert found.max_side == max(found.sides) == 10
    assert sum(found.sides.values()) == 178
    assert found.problems == ()


def test_scales_of_the_original_curriculum(published: Callable[..., TaskSet]) -> None:
    """The original counted 327, 493, 460, 420, 207 and 162 tasks; 149 of the first are of a set that is not here."""
    counts: Counter[int] = Counter()
    for source, subset in itertools.product(("arc-agi-1", "arc-agi-2"), ("training", "evaluation")):
        for side, number in describe(published(source, subset)).demo_sides.items():
            counts[(side - 1) // 5] += number
    assert [counts[scale] for scale in range(6)] == [327 - 149, 493, 460, 420, 207, 162]


def test_outputs_outside_the_region_are_named(published: Callable[..., TaskSet]) -> None:
    found = describe(published("arc-agi-1")).region
    assert found.outside == ("469497ad[0]", "91413438[0]", "feca6190[0]")
    assert found.share_inside == pytest.approx(413 / 416)


def test_oddities_are_named(make_task: Callable[..., Task]) -> None:
    task = make_task("a")
    one = np.array([[1]], dtype=np.uint8)
    tasks = TaskSet(
        (
            task,
            Task("b", task.demos, task.tests),
            Task("c", (Pair(one, one),), (Pair(one, one),)),
            Task("d", (Pair(one, one),), (Pair(one, one * 2),)),
            Task("e", (Pair(one, one * 3),), (Pair(one * 4, None),)),
        ),
        "s",
        "training",
    )
    found = describe(tasks)
    assert found.problems == (
        "b has the same pairs as a",
        "c: test pair 0 is also a demonstration",
        "d: one input has two different outputs",
        "e: 1 test outputs are unknown",
    )
    assert (found.region.answered, found.queries) == (4, 5)


def test_nothing_known_is_no_share() -> None:
    one = np.array([[1]], dtype=np.uint8)
    tasks = TaskSet((Task("e", (Pair(one, one),), (Pair(one, None),)),), "s", "training")
    assert describe(tasks).region.share_inside is None
