"""Updates and averages against closed forms and torch's own optimiser."""

from __future__ import annotations

import math

import pytest
import torch

from etrm.config import TrainConfig
from etrm.reference.training.optimisation import averaged, clipped, frozen_part, rate_factor, rate_of, update


def test_adamw_is_that_of_torch() -> None:
    train = TrainConfig(optimizer="adamw", lr=0.01, weight_decay=0.3)
    weight = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    real = torch.nn.Parameter(weight.clone())
    optimizer = torch.optim.AdamW([real], lr=0.01, betas=(train.beta1, train.beta2), weight_decay=0.3)
    mean = square = None
    for count in range(1, 4):
        real.grad = torch.sin(torch.arange(5.0, dtype=torch.float64) * count)
        found = update(weight, real.grad, mean, square, count, 0.01, train)
        optimizer.step()
        weight, mean, square = found.weight, found.mean, found.square
        assert torch.allclose(weight, real, rtol=1e-12)


def test_the_first_step_of_adam_atan2_is_a_quarter_of_pi_for_every_gradient() -> None:
    train = TrainConfig(optimizer="adam_atan2", weight_decay=0.0)
    gradient = torch.tensor([1e-9, -3.0], dtype=torch.float64)
    found = update(torch.zeros(2, dtype=torch.float64), gradient, None, None, 1, 0.5, train)
    # m = (1 - b1) g and v / (1 - b2) = g^2, so the angle is atan(1 - b1), divided by 1 - b1
    step = 0.5 / (1 - train.beta1) * math.atan(1 - train.beta1)
    assert found.weight.tolist() == pytest.approx([-step, step])


def test_rows_of_the_table_that_no_sample_uses_stand_still() -> None:
    train = TrainConfig(puzzle_weight_decay=0.5)
    gradient = torch.tensor([[1.0], [0.0], [0.0]])
    found = update(torch.ones(3, 1), gradient, None, None, 1, 0.1, train, rows=torch.tensor([0, 1]))
    assert found.weight.flatten().tolist() == pytest.approx([1 - 0.05 - 0.1, 1 - 0.05, 1.0])


def test_gradients_are_clipped_together_and_those_of_the_table_are_not() -> None:
    gradients = {
        "a": torch.tensor([3.0]),
        "b": torch.tensor([4.0]),
        "puzzle_table.weights": torch.tensor([9.0]),
    }
    found = clipped(gradients, TrainConfig(clip_norm=1.0))
    assert [float(found[name]) for name in gradients] == pytest.approx([0.6, 0.8, 9.0], rel=1e-5)
    assert clipped(gradients, TrainConfig(clip_norm=None)) == gradients


def test_the_schedule_rises_and_falls() -> None:
    train = TrainConfig(steps=12, warmup_steps=2, lr_min_ratio=0.2)
    assert [rate_factor(step, train) for step in (0, 1, 2, 7, 12)] == pytest.approx([0.5, 1.0, 1.0, 0.6, 0.2])


def test_each_part_has_its_rate_and_its_frozen_steps() -> None:
    train = TrainConfig(lr=1.0, encoder_lr_scale=0.5, puzzle_lr=3.0, freeze_encoder_steps=2)
    names = ("core.x", "encoder.x", "puzzle_table.weights")
    assert [rate_of(name, train) for name in names] == [1.0, 0.5, 3.0]
    assert [frozen_part(step, train) for step in (1, 2)] == ["encoder.", None]


def test_the_average_of_a_constant_is_the_constant_after_correction() -> None:
    total, weight = torch.zeros(2), torch.tensor([1.0, -2.0])
    for _ in range(3):
        total = averaged(total, weight, 0.9)
    assert torch.allclose(total / (1 - 0.9**3), weight)
