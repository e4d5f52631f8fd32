"""Micro-batches: each has the rows of the whole batch that are its own, with their noise and their minimum."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from etrm.config import Config
from etrm.errors import ConfigError
from etrm.training.micro_batches import MicroBatch, build_micro_batches, split
from etrm.training.trainer import Trainer
from tests.errors import raises_code

Smoke = Callable[..., Config]


def test_rows_are_split_evenly_or_not_at_all() -> None:
    assert split(range(4, 10), 3) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    with raises_code(ConfigError, "train.indivisible-parts", 6, 4):
        split(range(6), 4)


def build(config: Config, parts: int) -> list[MicroBatch]:
    """The micro-batches of the first step; torch draws the same numbers each time."""
    trainer = Trainer(config)
    slots, carry = trainer.slots[0], trainer.carries[0]
    slots.refill(carry.halted.tolist())
    slices = split(range(config.train.batch_size), parts)
    torch.manual_seed(7)
    return build_micro_batches(
        trainer.model, slots, carry, slices, trainer.world, torch.Generator().manual_seed(7)
    )


@pytest.mark.parametrize("kind", ["lpn_variational", "hybrid_variational"])
def test_micro_batches_are_the_rows_of_the_whole_batch(smoke: Smoke, kind: str) -> None:
    config = smoke(f"model.encoder.kind={kind}", "model.halt.exploration=0.9")
    (whole,) = build(config, 1)
    parts = build(config, 2)
    assert whole.batch.demos.noise is not None
    assert whole.minimum is not None
    assert (
        len({tuple(row.flatten().tolist()) for row in whole.batch.demos.noise}) == 4
    )  # each row has its own
    for part in parts:
        assert part.batch.demos.noise is not None
        assert part.minimum is not None
        assert torch.equal(part.batch.demos.noise, whole.batch.demos.noise[part.rows])
        assert torch.equal(part.minimum, whole.minimum[part.rows])
        assert torch.equal(part.batch.inputs, whole.batch.inputs[part.rows])
        assert torch.equal(part.batch.sample_ids, whole.batch.sample_ids[part.rows])
        assert torch.equal(part.carry.halted, whole.carry.halted[part.rows])
