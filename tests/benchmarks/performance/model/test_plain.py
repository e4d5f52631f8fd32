"""The plain layers compute what ours compute, whatever way each operation is done."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from benchmarks.performance.model.plain import LADDER, Ways, plain_copy
from benchmarks.performance.model.workload import encode_padded
from etrm.batch import Batch, Demos
from etrm.config import ModelConfig, TrainConfig
from etrm.model.encoders import PAD
from etrm.model.recursive import RecursiveModel, StepOutput
from etrm.training.loss import act_loss

SIDE, PAIRS, BATCH = 4, 5, 3


@pytest.fixture(scope="module")
def ours() -> RecursiveModel:
    torch.manual_seed(0)
    config = ModelConfig(
        hidden_size=16,
        num_heads=2,
        layers=2,
        H_cycles=2,
        L_cycles=2,
        context_tokens=3,
        encoder={"layers": 2, "set_layers": 2},
    )
    model = RecursiveModel(config, side=SIDE)
    model.context_policy = encode_padded
    nn.init.normal_(model.core.q_head.weight)
    return model


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Whole canvases, PAD among the tokens, and some pairs that are PAD alone."""
    generator = torch.Generator().manual_seed(0)
    cells, pairs = SIDE * SIDE, BATCH * PAIRS

    def tokens(rows: int, length: int) -> torch.Tensor:
        return torch.randint(0, 12, (rows, length), generator=generator)

    demos = tokens(pairs, 2 * cells)
    demos[[3, 4, 8, 9, 14]] = PAD
    return Batch(
        inputs=tokens(BATCH, cells),
        labels=tokens(BATCH, cells),
        positions=torch.arange(cells).expand(BATCH, -1),
        valid=None,
        puzzle_ids=torch.zeros(BATCH, dtype=torch.long),
        sample_ids=torch.arange(BATCH),
        demos=Demos(
            tokens=demos,
            positions=torch.arange(2 * cells).expand(pairs, -1),
            valid=None,
            owner=torch.arange(BATCH).repeat_interleave(PAIRS),
            slots=torch.arange(BATCH),
        ),
    )


def gradients(model: nn.Module, output: StepOutput, batch: Batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    act_loss(output, batch.labels, "stablemax").total(TrainConfig(q_halt_weight=0.5)).backward()
    return {
        name.replace("embedding_weight", "weight"): p.grad.clone()
        for name, p in model.named_parameters()
        if p.grad is not None
    }


@pytest.mark.parametrize("ways", [ways for _, ways in LADDER], ids=[name for name, _ in LADDER])
def test_outputs_and_gradients_are_ours(ours: RecursiveModel, batch: Batch, ways: Ways) -> None:
    plain = plain_copy(ours, SIDE, ways)
    _, expected = ours(ours.initial_carry(BATCH), batch)
    found = plain(batch)
    for name in ("logits", "q_halt", "context"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
    expected_gradients, found_gradients = (
        gradients(ours, expected, batch),
        gradients(plain, found, batch),
    )
    assert found_gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, rtol=1e-3, atol=1e-5)


def test_a_rung_exchanges_one_way_more_and_the_last_is_all_of_ours() -> None:
    ways = [tuple(vars(way).values()) for _, way in LADDER]
    for one, other in itertools.pairwise(ways):
        assert sum(a is not b for a, b in zip(one, other, strict=True)) == 1
    assert not set(ways[0]) & set(ways[-1])
