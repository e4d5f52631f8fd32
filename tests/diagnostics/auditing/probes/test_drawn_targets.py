"""Targets that are drawn in the step, with and without an input that has the same draw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics.auditing.probes.drawn_targets import check_drawn_targets


def two_draws(model: nn.Module, x: Tensor) -> Tensor:
    return F.mse_loss(model(x + torch.randn_like(x)), torch.randn_like(x))


def two_draws_of_a_distribution(model: nn.Module, x: Tensor) -> Tensor:
    normal = torch.distributions.Normal(torch.zeros_like(x), 1.0)
    return F.l1_loss(model(x + normal.sample()), 2 * normal.sample())


def two_draws_in_place(model: nn.Module, x: Tensor) -> Tensor:
    return F.smooth_l1_loss(model(x), torch.empty_like(x).normal_())


def one_draw(model: nn.Module, x: Tensor) -> Tensor:
    noise = torch.randn_like(x)
    return F.mse_loss(model(x + noise), noise)


def flow(model: nn.Module, x: Tensor) -> Tensor:
    noise, t = torch.randn_like(x), torch.rand(len(x), 1)
    return F.mse_loss(model((1 - t) * noise + t * x), x - noise)


def noise_as_input(model: nn.Module, x: Tensor) -> Tensor:
    return F.mse_loss(model(torch.randn_like(x)), x)


def soft_labels(model: nn.Module, x: Tensor) -> Tensor:
    return F.mse_loss(model(x), 0.8 + 0.2 * torch.rand_like(x))


def noisy_data(model: nn.Module, x: Tensor) -> Tensor:
    return F.mse_loss(model(x), x + 0.1 * torch.randn_like(x))


def dropped(model: nn.Module, x: Tensor) -> Tensor:
    return F.mse_loss(F.dropout(model(x), 0.5), x)


WRONG = (two_draws, two_draws_of_a_distribution, two_draws_in_place)
SOUND = (one_draw, flow, noise_as_input, soft_labels, noisy_data, dropped)


@pytest.mark.parametrize("step", [*WRONG, *SOUND], ids=lambda step: step.__name__)
def test_a_draw_that_the_model_has_not_seen(step: Any) -> None:
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(6, 6)), torch.randn(16, 6)
    before = torch.get_rng_state()
    found = check_drawn_targets(model, step, batch, [])
    assert [each.code for each in found] == (["target-drawn"] if step in WRONG else [])
    assert torch.equal(torch.get_rng_state(), before)
