"""The core on rows of similar length at a time: the same as on all of them, with less padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from etrm.batch import Batch
from etrm.model.core import Core
from etrm.model.recursive import RecursiveModel

SIZES = ((5, 5), (1, 2), (4, 6), (2, 2), (1, 1))
LENGTHS = [height * width for height, width in SIZES]


@pytest.fixture
def batch(world: Any) -> Batch:
    """Five samples whose lengths ask for several groups."""
    return world.batch([world.row(size, seed=i) for i, size in enumerate(SIZES)])


def both(world: Any, **given: Any) -> tuple[RecursiveModel, RecursiveModel]:
    """The same weights without and with grouping."""
    plain = world.model(world.config(layers=2, **given))
    grouped = world.model(world.config(layers=2, group_rows=True, **given))
    return plain, grouped


@pytest.mark.parametrize("positions", ["rope", "learned", "none"])
def test_three_steps_and_their_gradients_are_the_same(world: Any, batch: Batch, positions: str) -> None:
    results = []
    for model in both(world, positions=positions):
        carry = model.initial_carry(batch.size)
        weight = torch.randn(*batch.inputs.shape, 12, generator=torch.Generator().manual_seed(0))
        for _ in range(3):
            carry, output = model(carry, batch)
        loss = (output.logits * weight)[batch.valid].sum() + output.q_halt.sum()
        loss.backward()
        results.append((output, carry, {name: p.grad for name, p in model.named_parameters()}))
    (plain, carry, gradients), (grouped, grouped_carry, grouped_gradients) = results
    torch.testing.assert_close(grouped.q_halt, plain.q_halt, rtol=1e-4, atol=1e-5)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(
            grouped.logits[row, :length], plain.logits[row, :length], rtol=1e-4, atol=1e-5
        )
        own = slice(0, 3 + length)
        torch.testing.assert_close(grouped_carry.z_H[row, own], carry.z_H[row, own], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(grouped_carry.z_L[row, own], carry.z_L[row, own], rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        if gradient is not None:
            torch.testing.assert_close(grouped_gradients[name], gradient, rtol=1e-3, atol=1e-4)


def test_little_padding_is_computed(world: Any, batch: Batch) -> None:
    def lengths(core: Core) -> list[tuple[int, int]]:
        seen = []
        core.L_level.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape[:2])))
        model(model.initial_carry(batch.size), batch)
        return list(dict.fromkeys(seen))

    for model, expected in zip(both(world), ([(5, 28)], [(2, 28), (1, 7), (1, 5), (1, 4)]), strict=True):
        assert lengths(model.core) == expected


def test_rows_of_one_length_stay_together_bit_for_bit(world: Any) -> None:
    batch = world.batch([world.row((3, 3), seed=i) for i in range(3)])
    plain, grouped = (model(model.initial_carry(3), batch)[1] for model in both(world))
    assert torch.equal(plain.logits, grouped.logits)


def test_shapes_are_those_of_the_batch(world: Any, batch: Batch) -> None:
    _, grouped = both(world)
    carry, output = grouped(grouped.initial_carry(batch.size), batch)
    assert output.logits.shape == (5, 25, 12)
    assert carry.z_H.shape == carry.z_L.shape == (5, 28, 16)
