from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from etrm.data import Pair, Task, TaskSet
from etrm.data.augment import list_augmentations
from etrm.data.shard import Shard, encode


def grid(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.uint8)


def opened(folder: Path, task: Task, augmentations: int = 40, seed: int = 3) -> Shard:
    path = folder / f"{task.id}-{augmentations}.safetensors"
    path.write_bytes(encode(task, augmentations, seed))
    return Shard.open(path)


def test_every_grid_is_the_augmented_one(tmp_path: Path, small_set: TaskSet) -> None:
    for task in small_set:
        shard = opened(tmp_path, task)
        for number, augmentation in enumerate(list_augmentations(task.id, 40, 3)):
            assert shard.augmentation(number) == augmentation
            found = shard.pairs(task, number)
            for pair in task.pairs:
                for stored, original in zip(found[pair].grids, pair.grids, strict=True):
                    expected = augmentation.apply(original)
                    assert (stored.shape, stored.dtype) == (expected.shape, np.uint8)
                    np.testing.assert_array_equal(stored, expected)


def test_a_task_of_one_colour_and_one_cell_has_nine_versions(tmp_path: Path) -> None:
    """Eight transforms do nothing to one cell; the colour 3 becomes one of nine."""
    task = Task("t", (Pair(grid([3]), grid([3])),), (Pair(grid([3]), grid([0])),))
    shard = opened(tmp_path, task, augmentations=500)
    assert shard.cells.shape == (9, 4)
    assert sorted(shard.cells[:, 0].tolist()) == list(range(1, 10))
    assert set(shard.row.tolist()) == set(range(9))


def test_equal_cells_in_other_shapes_are_kept_apart(tmp_path: Path) -> None:
    """A row of one colour lies or stands: the same cells, two shapes, nine colours."""
    row = grid([3, 3, 3])
    task = Task("t", (Pair(row, row),), (Pair(row, row),))
    shard = opened(tmp_path, task, augmentations=500)
    assert len(shard.cells) == 18
    shapes = {}
    for number in range(500):
        found = shard.pairs(task, number)[task.demos[0]].input
        key = (int(shard.row[number]), found.shape)
        assert shapes.setdefault(key[0], key[1]) == key[1]
    assert sorted(shapes.values()) == [(1, 3)] * 9 + [(3, 1)] * 9


def test_rows_are_as_many_as_brute_force_finds(tmp_path: Path, published: Callable[..., TaskSet]) -> None:
    fewer = 0
    for task in published("arc-agi-1", "training", max_side=5).tasks[:12]:
        shard = opened(tmp_path, task, augmentations=60)
        seen = {
            tuple((augmented.shape, augmented.tobytes()) for augmented in map(one.apply, task.grids))
            for one in list_augmentations(task.id, 60, 3)
        }
        assert len(shard.cells) == len(seen)
        for number, one in enumerate(list_augmentations(task.id, 60, 3)):
            found = shard.pairs(task, number)[task.tests[0]].input
            np.testing.assert_array_equal(found, one.apply(task.tests[0].input))
        fewer += len(seen) < 60
    assert fewer == 3


def test_outputs_that_are_unknown_take_no_place(tmp_path: Path) -> None:
    task = Task("t", (Pair(grid([1, 2]), grid([3])),), (Pair(grid([4, 5]), None), Pair(grid([6]), grid([7]))))
    shard = opened(tmp_path, task, augmentations=5)
    assert shard.cells.shape[1] == 7
    found = shard.pairs(task, 0)
    assert found[task.tests[0]].output is None
    assert found[task.tests[1]].output.tolist() == [[7]]


def test_the_file_is_plain_safetensors_and_the_same_every_time(tmp_path: Path, small_set: TaskSet) -> None:
    task = small_set.tasks[0]
    shard = opened(tmp_path, task)
    tensors = load_file(tmp_path / f"{task.id}-40.safetensors")
    assert sorted(tensors) == ["cells", "row", "transform"]
    for name, values in tensors.items():
        np.testing.assert_array_equal(values, getattr(shard, name))
    assert encode(task, 40, 3) == encode(task, 40, 3) != encode(task, 40, 4)
    assert shard.whole
    assert not shard.cells.flags.writeable


def test_more_augmentations_only_add_to_the_first(tmp_path: Path, small_set: TaskSet) -> None:
    task = small_set.tasks[1]
    few, many = opened(tmp_path, task, 10), opened(tmp_path, task, 60)
    np.testing.assert_array_equal(few.transform, many.transform[:10])
    np.testing.assert_array_equal(few.row, many.row[:10])


def test_an_altered_array_is_seen(tmp_path: Path, small_set: TaskSet) -> None:
    path = tmp_path / "shard.safetensors"
    data = encode(small_set.tasks[0], 10, 0)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert not Shard.open(path).whole


@pytest.mark.parametrize("cut", [0, 4, 8, 100, -1])
def test_a_part_of_a_file_is_refused(tmp_path: Path, small_set: TaskSet, cut: int) -> None:
    path = tmp_path / "shard.safetensors"
    path.write_bytes(encode(small_set.tasks[0], 10, 0)[:cut])
    with pytest.raises(ValueError):
        Shard.open(path)


@pytest.mark.parametrize(
    "header", ["[]", "{}", '{"__metadata__": {}}', '{"__metadata__": {"etrm": "3"}}', "[" * 9000]
)
def test_other_files_are_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "shard.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(ValueError):
        Shard.open(path)
    with pytest.raises(OSError):
        Shard.open(tmp_path / "absent")
