"""What must stay true of the model's training, whoever changes it."""

import torch
from model import Model

from diagnostics import assert_gradient_coverage, assert_trains

SAMPLES = 16


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    demos, query = (torch.randn(SAMPLES, size, generator=generator) for size in (8, 4))
    return demos, query, demos[:, :4] * query


def test_every_sample_trains_every_part() -> None:
    model, (demos, query, answer) = Model(), batch()
    assert_gradient_coverage(
        model, lambda: (model(demos, query) - answer).square().mean(), SAMPLES, watch=["encoder", "decoder"]
    )


def test_every_part_moves() -> None:
    model, (demos, query, answer) = Model(), batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        (model(demos, query) - answer).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    assert_trains(model, step)
