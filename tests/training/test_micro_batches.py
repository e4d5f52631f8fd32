"""Micro-batches: each has the rows of the whole batch that are its own, with their noise and their minimum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from etrm.batch import Demos
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


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
def test_padding_is_what_the_networks_get_beyond_the_tokens(
    smoke: Smoke, monkeypatch: pytest.MonkeyPatch, static: bool, parts: int
) -> None:
    """Against the tensors that the core and the grid encoder really see."""
    trainer = Trainer(
        smoke(
            f"train.static_shapes={str(static).lower()}", f"train.accumulate={parts}", "monitor.enabled=false"
        )
    )
    assert trainer.model.encoder is not None
    seen: list[tuple[int, int]] = []
    encoder = trainer.model.encoder.grid_encoder
    encode = type(encoder).encode

    def noted(self: Any, demos: Demos) -> Tensor:
        assert demos.valid is not None
        seen.append((demos.valid.numel(), int(demos.valid.sum())))
        return encode(self, demos)

    monkeypatch.setattr(type(encoder), "encode", noted)
    trainer.model.core.register_forward_pre_hook(
        lambda core, args: seen.append((args[3].numel(), int(args[5].sum())))
    )
    slots = trainer.slots[trainer.state.bucket]
    trainer.train_step()
    real = sum(
        len(tokens)
        for sample in slots.samples
        for tokens in (sample.tokens, *(d.tokens for d in sample.demos))
    )
    positions = sum(numel for numel, _ in seen)
    assert (trainer.times.positions, trainer.times.padding) == (positions, positions - real)
    assert static or real == sum(
        valid for _, valid in seen
    )  # static shapes repeat pairs, which count as padding
