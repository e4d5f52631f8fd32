from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from etrm.data.task import Pair, Task, hash_grid, parse_grid, parse_task
from etrm.errors import DataError
from tests.errors import raises_code

GRID = [[0, 1], [2, 3]]


def raw_task(**changes: Any) -> dict[str, Any]:
    pair = {"input": GRID, "output": GRID}
    return {"train": [pair, pair], "test": [pair], **changes}


def test_a_valid_task_is_read() -> None:
    task = parse_task("t", raw_task(), "file.json")
    assert (len(task.demos), len(task.tests), task.max_side) == (2, 1, 2)
    assert task.demos[0].input.dtype == np.uint8
    np.testing.assert_array_equal(task.tests[0].output, GRID)


@pytest.mark.parametrize(
    ("grid", "code", "where", "got"),
    [
        ([[0, 1], [2]], "task.ragged-grid", "row 1", "rows of 2 and 1 cells"),
        ([[0, 10]], "task.bad-colour", "row 0, column 1", 10),
        ([[0], [-1]], "task.bad-colour", "row 1, column 0", -1),
        ([[0, 1.0]], "task.bad-colour", "row 0, column 1", 1.0),
        ([[True]], "task.bad-colour", "row 0, column 0", True),
        ([["3"]], "task.bad-colour", "row 0, column 0", "'3'"),
        ([[0]] * 31, "task.bad-size", 30, "31x1"),
        ([[0] * 31], "task.bad-size", 30, "1x31"),
        ([[]], "task.bad-size", 30, "1x0"),
        ([], "task.not-a-grid", "input", "[]"),
        ([[1], 2], "task.row-not-a-list", "row 1", 2),
        ("0", "task.not-a-grid", "input", "'0'"),
        (None, "task.not-a-grid", "input", "None"),
    ],
)
def test_a_bad_grid_is_named(grid: Any, code: str, where: object, got: object) -> None:
    pair = {"input": GRID, "output": GRID}
    raw = raw_task(test=[pair, {"input": grid, "output": GRID}])
    with raises_code(DataError, code, "some.json: task abc, test pair 1, input", where, got=got):
        parse_task("abc", raw, "some.json")


@pytest.mark.parametrize(
    ("raw", "code", "values"),
    [
        ([], "task.not-an-object", ["f: task t", "[]"]),
        (raw_task(train=[]), "task.no-pairs", ["f: task t", "[]", '"train"']),
        (raw_task(test=[]), "task.no-pairs", ["f: task t", "[]", '"test"']),
        (
            {"train": [{"input": GRID, "output": GRID}]},
            "task.no-pairs",
            ["f: task t", "keys ['train']", '"test"'],
        ),
        (raw_task(train=[{"output": GRID}]), "task.no-input", ["f: task t, train pair 0"]),
        (raw_task(train=[[GRID, GRID]]), "task.no-input", ["f: task t, train pair 0"]),
        (raw_task(train=[{"input": GRID}]), "task.no-output", ["f: task t, train pair 0"]),
        (raw_task(test=[{"input": GRID}]), "task.no-output", ["f: task t, test pair 0"]),
    ],
)
def test_a_bad_task_is_named(raw: Any, code: str, values: list[str]) -> None:
    with raises_code(DataError, code, *values):
        parse_task("t", raw, "f")


def test_a_long_value_is_shortened_in_the_message() -> None:
    with raises_code(DataError, "task.not-a-grid") as caught:
        parse_grid("0" * 5000, "f: task t")
    assert len(caught.value.got) < 100


def test_outputs_of_tests_alone_may_be_unknown() -> None:
    task = parse_task("t", raw_task(test=[{"input": GRID}]), "f", outputs=False)
    assert task.tests[0].output is None
    with raises_code(DataError, "task.no-output", "train pair 0"):
        parse_task("t", raw_task(train=[{"input": GRID}]), "f", outputs=False)


def test_grids_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):  # numpy's
        parse_grid(GRID, "f")[0, 0] = 1


def test_the_hash_of_a_grid_knows_its_shape() -> None:
    cells = np.arange(6, dtype=np.uint8)
    hashes = {hash_grid(cells.reshape(shape)) for shape in [(1, 6), (6, 1), (2, 3), (3, 2)]}
    assert len(hashes) == 4
    assert hash_grid(np.array([[1, 2]])) == hash_grid(np.array([[1, 2]], dtype=np.uint8))


def test_the_hash_of_a_task_knows_its_pairs_and_nothing_else() -> None:
    grids = [np.full((1, n), n, dtype=np.uint8) for n in range(1, 5)]
    a, b, c = (Pair(grids[i], grids[i + 1]) for i in range(3))
    task = Task("one", (a, b), (c,))
    assert task.hash == Task("two", (c, a), (b,)).hash
    assert task.hash != Task("one", (a,), (b,)).hash
    assert task.canonical != Task("one", (b, a), (c,)).canonical
    assert Pair(grids[0], None) != Pair(grids[0], grids[0])
    assert Pair(grids[0], grids[1]) != Pair(grids[1], grids[0])
