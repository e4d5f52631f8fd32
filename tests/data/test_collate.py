from __future__ import annotations

import numpy as np
import torch

from etrm.batch import IGNORE
from etrm.config import DataConfig
from etrm.data import Episodes, Sample, TaskSet, collate, lay_out
from etrm.errors import ArgumentError
from tests.errors import raises_code


def draw(tasks: TaskSet, n: int, variant: str = "etrm", **data: object) -> list[Sample]:
    episodes = Episodes(tasks, DataConfig(**{"buckets": 1, "augmentations": 3, **data}), variant, 0)
    return [episodes.sample(0, index) for index in range(n)]


def test_every_row_is_its_sample_and_padding_behind_it(small_set: TaskSet) -> None:
    samples = draw(small_set, 6)
    batch = collate(samples)
    longest = max(len(sample.tokens) for sample in samples)
    assert batch.size == 6
    assert batch.inputs.shape == batch.labels.shape == batch.positions.shape == (6, longest)
    assert batch.valid is not None
    for row, sample in enumerate(samples):
        n = len(sample.tokens)
        assert batch.inputs[row].tolist() == sample.tokens.tolist() + [0] * (longest - n)
        assert batch.labels[row].tolist() == sample.labels.tolist() + [IGNORE] * (longest - n)
        assert batch.positions[row].tolist() == sample.positions.tolist() + [0] * (longest - n)
        assert batch.valid[row].tolist() == [True] * n + [False] * (longest - n)
    assert batch.sample_ids.tolist() == [sample.serial for sample in samples]
    assert batch.puzzle_ids.tolist() == [sample.puzzle_id for sample in samples]


def test_demos_stand_with_their_owner(small_set: TaskSet) -> None:
    samples = draw(small_set, 6)
    demos = collate(samples).demos
    pairs = [(row, pair) for row, sample in enumerate(samples) for pair in sample.demos]
    longest = max(len(pair.tokens) for _, pair in pairs)
    assert demos.slots.tolist() == list(range(6))
    assert demos.lengths == tuple(len(pair.tokens) for _, pair in pairs)
    assert demos.cells == tuple(len(set((pair.positions % 900).tolist())) for _, pair in pairs)
    assert demos.most == max(len(sample.demos) for sample in samples)
    assert demos.owner.tolist() == [row for row, _ in pairs]
    assert demos.tokens.shape == demos.positions.shape == (len(pairs), longest)
    assert demos.valid is not None
    for row, (_, pair) in enumerate(pairs):
        n = len(pair.tokens)
        np.testing.assert_array_equal(demos.tokens[row, :n], pair.tokens)
        np.testing.assert_array_equal(demos.positions[row, :n], pair.positions)
        assert demos.tokens[row, n:].sum() == demos.positions[row, n:].sum() == 0
        assert demos.valid[row].tolist() == [True] * n + [False] * (longest - n)


def test_all_tensors_are_int64_but_the_masks(small_set: TaskSet) -> None:
    batch = collate(draw(small_set, 3))
    tensors = [batch.inputs, batch.labels, batch.positions, batch.puzzle_ids, batch.sample_ids]
    tensors += [batch.demos.tokens, batch.demos.positions, batch.demos.owner, batch.demos.slots]
    assert {tensor.dtype for tensor in tensors} == {torch.int64}
    assert batch.valid.dtype == batch.demos.valid.dtype == torch.bool


def test_a_batch_is_laid_out_in_int16_and_widened_to_the_same_numbers(small_set: TaskSet) -> None:
    samples = draw(small_set, 4)
    narrow, wide = lay_out(samples, tokens=50), collate(samples, tokens=50)
    for part, names in ((narrow, ("inputs", "labels", "positions")), (narrow.demos, ("tokens", "positions"))):
        assert {getattr(part, name).dtype for name in names} == {torch.int16}
    widened = narrow.widened()
    for one, other in ((widened, wide), (widened.demos, wide.demos)):
        for name, value in vars(other).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(getattr(one, name), value), name
                assert getattr(one, name).dtype == value.dtype
    assert (widened.demos.lengths, widened.demos.cells) == (wide.demos.lengths, wide.demos.cells)


def test_the_published_canvas_has_no_masks(small_set: TaskSet) -> None:
    batch = collate(draw(small_set, 2, canvas="published"))
    assert batch.inputs.shape == (2, 900)
    assert batch.demos.tokens.shape == (6, 1800)
    assert batch.valid is None
    assert batch.demos.valid is None


def test_samples_may_have_different_numbers_of_demos_or_none(small_set: TaskSet) -> None:
    first, second, third = draw(small_set, 3)
    bare = type(second)(**{**vars(second), "demos": ()})
    batch = collate([first, bare, third])
    assert batch.demos.owner.tolist() == [0, 0, 0, 2, 2, 2]
    assert (batch.demos.rows, batch.demos.most) == (3, 3)
    none = collate([bare])
    assert none.demos.tokens.shape == (0, 0)
    assert none.demos.owner.shape == (0,)


def test_a_row_depends_on_its_sample_alone(small_set: TaskSet) -> None:
    samples = draw(small_set, 5)
    together, alone = collate(samples), collate(samples[:1])
    n = alone.inputs.shape[1]
    for name in ("inputs", "labels", "positions"):
        assert torch.equal(getattr(together, name)[:1, :n], getattr(alone, name))


def test_an_empty_batch_is_refused() -> None:
    with raises_code(ArgumentError, "data.empty-batch"):
        collate([])
