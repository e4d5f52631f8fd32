from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from etrm.data.task import Pair, Task, grid_hash, parse_grid, parse_task
from etrm.errors import DataError

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
    ("grid", "message"),
    [
        ([[0, 1], [2]], r"ragged: row 1 is not as long as row 0\n  got:     rows of 2 and 1 cells"),
        ([[0, 10]], r"something but a colour at row 0, column 1\n  got:     10"),
        ([[0], [-1]], r"something but a colour at row 1, column 0\n  got:     -1"),
        ([[0, 1.0]], r"something but a colour at row 0, column 1\n  got:     1.0"),
        ([[True]], r"something but a colour at row 0, column 0\n  got:     True"),
        ([["3"]], r"something but a colour at row 0, column 0\n  got:     '3'"),
        ([[0]] * 31, r"bad size\n  got:     31x1\n  allowed: sides from 1 to 30"),
        ([[0] * 31], r"bad size\n  got:     1x31"),
        ([[]], r"bad size\n  got:     1x0"),
        ([], "is not a grid"),
        ([[1], 2], "is not a grid: row 1 is no list"),
        ("0", "is not a grid"),
        (None, "is not a grid"),
    ],
)
def test_a_bad_grid_is_named(grid: Any, message: str) -> None:
    pair = {"input": GRID, "output": GRID}
    raw = raw_task(test=[pair, {"input": grid, "output": GRID}])
    with pytest.raises(DataError, match=r"^some\.json: task abc, test pair 1, input.*" + message):
        parse_task("abc", raw, "some.json")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "f: task t is not an object"),
        (raw_task(train=[]), "f: task t has no demonstrations"),
        (raw_task(test=[]), "f: task t has no test pairs"),
        (
            {"train": [{"input": GRID, "output": GRID}]},
            r"f: task t has no test pairs\n  got:     keys \['train'\]",
        ),
        (raw_task(train=[{"output": GRID}]), "f: task t, train pair 0 has no input"),
        (raw_task(train=[[GRID, GRID]]), "f: task t, train pair 0 has no input"),
        (raw_task(train=[{"input": GRID}]), "f: task t, train pair 0 has no output"),
        (raw_task(test=[{"input": GRID}]), "f: task t, test pair 0 has no output"),
    ],
)
def test_a_bad_task_is_named(raw: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        parse_task("t", raw, "f")


def test_a_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(DataError) as caught:
        parse_grid("0" * 5000, "f: task t")
    assert len(str(caught.value)) < 200


def test_outputs_of_tests_alone_may_be_unknown() -> None:
    task = parse_task("t", raw_task(test=[{"input": GRID}]), "f", outputs=False)
    assert task.tests[0].output is None
    with pytest.raises(DataError, match="train pair 0 has no output"):
        parse_task("t", raw_task(train=[{"input": GRID}]), "f", outputs=False)


def test_grids_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        parse_grid(GRID, "f")[0, 0] = 1


def test_the_hash_of_a_grid_knows_its_shape() -> None:
    cells = np.arange(6, dtype=np.uint8)
    hashes = {grid_hash(cells.reshape(shape)) for shape in [(1, 6), (6, 1), (2, 3), (3, 2)]}
    assert len(hashes) == 4
    assert grid_hash(np.array([[1, 2]])) == grid_hash(np.array([[1, 2]], dtype=np.uint8))


def test_the_hash_of_a_task_knows_its_pairs_and_nothing_else() -> None:
    grids = [np.full((1, n), n, dtype=np.uint8) for n in range(1, 5)]
    a, b, c = (Pair(grids[i], grids[i + 1]) for i in range(3))
    task = Task("one", (a, b), (c,))
    assert task.hash == Task("two", (c, a), (b,)).hash
    assert task.hash != Task("one", (a,), (b,)).hash
    assert task.canonical != Task("one", (b, a), (c,)).canonical
    assert Pair(grids[0], None) != Pair(grids[0], grids[0])
    assert Pair(grids[0], grids[1]) != Pair(grids[1], grids[0])
