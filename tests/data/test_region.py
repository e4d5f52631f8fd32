from __future__ import annotations

from collections.abc import Callable
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etrm.data import Augmentation, Pair, TaskSet, describe, find_region
from etrm.data.region import holds
from etrm.data.sample import list_queries

shapes = st.tuples(st.integers(1, 30), st.integers(1, 30))
shape_pairs = st.lists(st.tuples(shapes, shapes), min_size=1, max_size=4)


def blank(shape: tuple[int, int]) -> np.ndarray:
    return np.zeros(shape, dtype=np.uint8)


def pairs_of(sizes: list[tuple[tuple[int, int], tuple[int, int]]]) -> list[Pair]:
    return [Pair(blank(given), blank(output)) for given, output in sizes]


@given(shape_pairs, shapes)
def test_the_rule(sizes: list[tuple[tuple[int, int], tuple[int, int]]], query: tuple[int, int]) -> None:
    expected = []
    for axis in (0, 1):
        longest = max(query[axis], *(max(a[axis], b[axis]) for a, b in sizes))
        scaled = max(-(-b[axis] * query[axis] // a[axis]) for a, b in sizes)  # exact: no float
        expected.append(min(30, 1 + max(longest, scaled)))
    assert find_region(pairs_of(sizes), blank(query)) == tuple(expected)


def test_ratios_are_exact() -> None:
    assert ceil(22 * (15 / 22)) == 15
    demos = pairs_of([((1, 25), (1, 7))])
    assert find_region(demos, blank((1, 25))) == (2, 26)
    for side in range(1, 30):
        assert find_region(pairs_of([((side, 1), (1, 1))]), blank((side, 1)))[0] == side + 1


@given(shape_pairs, shapes, st.integers(0, 7))
def test_the_region_turns_with_the_grids(
    sizes: list[tuple[tuple[int, int], tuple[int, int]]], query: tuple[int, int], number: int
) -> None:
    turn = Augmentation(number, tuple(range(10)))
    demos = pairs_of(sizes)
    turned = [Pair(turn.apply(pair.input), turn.apply(pair.output)) for pair in demos]
    plain = find_region(demos, blank(query))
    assert find_region(turned, turn.apply(blank(query))) == (plain[::-1] if turn.swaps_sides else plain)


def test_without_demos_it_is_the_whole_canvas() -> None:
    assert find_region([], blank((2, 2))) == (30, 30)


def test_the_label_is_not_looked_at(small_set: TaskSet) -> None:
    for index, task in enumerate(small_set):
        for query in list_queries(task, index):
            unknown = type(query)(task, index, query.index, Pair(query.pair.input, None), query.demos)
            other = type(query)(
                task, index, query.index, Pair(query.pair.input, blank((30, 30))), query.demos
            )
            assert query.region == unknown.region == other.region


# queries, outputs inside, outputs inside with their EOS borders, mean tokens
COUNTS = {
    ("arc-agi-1", "training"): (416, 413, 410, 220.15),
    ("arc-agi-1", "evaluation"): (419, 414, 413, 339.75),
    ("arc-agi-2", "training"): (1076, 1064, 1060, 291.34),
    ("arc-agi-2", "evaluation"): (167, 166, 165, 606.46),
}


@pytest.mark.parametrize(("source", "subset"), COUNTS)
def test_counts_on_the_published_sets(published: Callable[..., TaskSet], source: str, subset: str) -> None:
    queries, inside, with_border, mean = COUNTS[source, subset]
    tasks = published(source, subset)
    found = describe(tasks).region
    assert (found.answered, found.inside, len(found.outside)) == (queries, inside, queries - inside)
    assert found.mean_tokens == pytest.approx(mean, abs=0.01)
    bordered = 0
    for index, task in enumerate(tasks):
        for query in list_queries(task, index):
            rows, columns = query.pair.output.shape
            bordered += holds(query.region, blank((min(30, rows + 1), min(30, columns + 1))))
    assert bordered == with_border


def test_the_share_that_the_documents_state() -> None:
    queries, inside, bordered = (sum(count[i] for count in COUNTS.values()) for i in range(3))
    assert (queries, inside, bordered) == (2078, 2057, 2048)
    assert bordered / queries == pytest.approx(0.985, abs=0.001)
