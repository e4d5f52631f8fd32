from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etrm.data import DemoPair, Sample
from etrm.training.slots import Slots


def sample(index: int) -> Sample:
    """An invented sample that carries its index in every field that reaches the batch."""
    tokens, positions = np.full(1 + index % 3, 2 + index % 10), np.arange(1 + index % 3)
    demo = DemoPair(np.array([2, 3]), np.array([0, 900]))
    return Sample(
        task_id=str(index),
        name=str(index),
        query=0,
        puzzle_id=index,
        serial=100 + index,
        tokens=tokens,
        positions=positions,
        labels=tokens,
        demos=(demo,) * (1 + index % 2),
        region=(1, len(tokens)),
        side=30,
        in_region=True,
        target=None,
    )


class Loader:
    """A draw function that remembers what was asked of it."""

    def __init__(self) -> None:
        self.drawn: list[int] = []

    def __call__(self, episodes: object, bucket: int, index: int) -> Sample:
        assert (episodes, bucket) == (EPISODES, 1)
        self.drawn.append(index)
        return sample(index)


EPISODES = SimpleNamespace()


def slots_of(rows: int) -> tuple[Slots, Loader]:
    loader = Loader()
    return Slots(EPISODES, 1, rows, loader), loader


@given(st.integers(1, 4), st.data())
def test_a_row_is_drawn_for_a_reset_alone_and_none_is_thrown_away(rows: int, data: st.DataObject) -> None:
    slots, loader = slots_of(rows)
    history = data.draw(st.lists(st.lists(st.booleans(), min_size=rows, max_size=rows), max_size=8))
    held: list[int] = [-1] * rows
    resets = 0
    for halted in [[True] * rows, *history]:
        slots.refill(halted)
        for row, done in enumerate(halted):
            if done:
                held[row] = resets
                resets += 1
        assert slots.batch().sample_ids.tolist() == [100 + index for index in held]
    assert loader.drawn == list(range(resets))


def test_everything_of_a_row_goes_with_its_sample() -> None:
    slots, _ = slots_of(3)
    slots.refill([True] * 3)
    slots.refill([False, True, False])
    batch = slots.batch()
    assert batch.puzzle_ids.tolist() == [0, 3, 2]
    assert batch.inputs[:, 0].tolist() == [2, 5, 4]
    assert torch.equal(batch.labels[:, 0], batch.inputs[:, 0])
    assert batch.demos.owner.tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize("resets", [[], [[False, True]], [[True, True], [True, False]]])
def test_restored_slots_go_on_as_if_never_interrupted(resets: list[list[bool]]) -> None:
    first, _ = slots_of(2)
    for halted in [[True, True], *resets]:
        first.refill(halted)
    second, loader = slots_of(2)
    second.restore(first.indices, first.next_index)
    assert loader.drawn == first.indices
    assert torch.equal(second.batch().sample_ids, first.batch().sample_ids)
    for slots in (first, second):
        slots.refill([True, False])
    assert torch.equal(second.batch().sample_ids, first.batch().sample_ids)
    assert second.next_index == first.next_index


def test_slots_restored_before_their_first_step_begin_at_the_beginning() -> None:
    first, _ = slots_of(2)
    second, loader = slots_of(2)
    second.restore(first.indices, first.next_index)
    assert loader.drawn == []
    second.refill([True, True])
    assert loader.drawn == [0, 1]


def test_restored_positions_are_a_copy() -> None:
    saved = [0, 1]
    slots, _ = slots_of(2)
    slots.restore(saved, 2)
    slots.refill([True, True])
    assert saved == [0, 1]
