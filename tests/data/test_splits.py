from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from etrm.data import Pair, Task, TaskSet, check_leakage, find_leakage
from etrm.data.splits import TWINS
from etrm.errors import LeakageError
from tests.errors import raises_code


def a_set(*tasks: Task) -> TaskSet:
    return TaskSet(tasks, "invented", "training")


@pytest.mark.parametrize(
    ("train", "held_out", "by_id", "by_grids"),
    [
        (("arc-agi-2", "training"), ("arc-agi-1", "evaluation"), 376, 376),
        (("arc-agi-1", "evaluation"), ("arc-agi-2", "evaluation"), 6, 6),
        (("arc-agi-2", "evaluation"), ("arc-agi-1", "evaluation"), 6, 6),
        (("arc-agi-2", "training"), ("arc-agi-2", "evaluation"), 0, 0),
        (("arc-agi-1", "training"), ("arc-agi-2", "evaluation"), 0, 0),
        (("arc-agi-1", "training"), ("arc-agi-1", "evaluation"), 0, 1),
    ],
)
def test_counts_on_the_published_sets(
    published: Callable[..., TaskSet],
    train: tuple[str, str],
    held_out: tuple[str, str],
    by_id: int,
    by_grids: int,
) -> None:
    found = find_leakage(published(*train), published(*held_out))
    assert (len(found.by_id), len(found.by_grids)) == (by_id, by_grids)


def test_arc_agi_1_holds_one_twin(published: Callable[..., TaskSet]) -> None:
    train, held_out = published("arc-agi-1", "training"), published("arc-agi-1", "evaluation")
    assert train.get("40853293").hash == held_out.get("070dd51e").hash
    named = ("0 by id, 1 by their grids", "070dd51e (trained as 40853293)", 'data.exclude=["40853293"]')
    with raises_code(LeakageError, "data.leakage", *named):
        check_leakage(train, held_out)
    check_leakage(train, held_out, allow=TWINS)
    check_leakage(train, held_out.without(TWINS))


def test_a_task_whose_pairs_are_in_several_training_tasks_is_named_by_its_own_id(
    make_task: Callable[..., Task],
) -> None:
    a, b, c = make_task("a"), make_task("b"), make_task("c")
    hidden = Task("x", (*a.demos, *b.demos), tuple(Pair(pair.input, None) for pair in c.tests))
    with raises_code(LeakageError, "data.leakage", "grids: x") as caught:
        check_leakage(a_set(a, b), a_set(hidden))
    assert "trained as" not in str(caught.value)


def test_the_error_names_sets_and_tasks(published: Callable[..., TaskSet]) -> None:
    with raises_code(
        LeakageError, "data.leakage", "376 of 400", "arc-agi-1, evaluation", "arc-agi-2, training"
    ):
        check_leakage(published("arc-agi-2", "training"), published("arc-agi-1", "evaluation"))


def test_a_renamed_task_is_found_by_its_grids(make_task: Callable[..., Task]) -> None:
    a, b = make_task("a"), make_task("b")
    as_demo = Task("c", (*b.demos, a.tests[0]), b.tests)
    shuffled = Task("d", a.demos[::-1], a.tests)
    for train in (as_demo, shuffled):
        assert find_leakage(a_set(train), a_set(a)).by_grids == ("a",)
    assert find_leakage(a_set(b), a_set(a)).ids == ()


def test_shared_demonstrations_alone_are_no_leak_while_answers_are_known(
    make_task: Callable[..., Task],
) -> None:
    a = make_task("a")
    other_question = Task("b", a.demos, make_task("b").tests)
    assert find_leakage(a_set(other_question), a_set(a)).ids == ()


def test_without_answers_the_demonstrations_decide(make_task: Callable[..., Task]) -> None:
    a = make_task("a")
    asked = Task("asked", a.demos, (Pair(np.ones((2, 2), dtype=np.uint8), None),))
    assert find_leakage(a_set(a), a_set(asked)).by_grids == ("asked",)
    assert find_leakage(a_set(make_task("b")), a_set(asked)).ids == ()


def test_an_allowed_task_passes(make_task: Callable[..., Task]) -> None:
    a = a_set(make_task("a"))
    with raises_code(
        LeakageError, "data.leakage", "1 by id, 1 by their grids", got="1 by id, 1 by their grids: a"
    ):
        check_leakage(a, a)
    check_leakage(a, a, allow=("a",))
