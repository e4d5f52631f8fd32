"""Targets that are drawn in the step, with and without an input that has the same draw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics.auditing.probes.operations.drawn_targets import check_drawn_scores, check_drawn_targets
from diagnostics.auditing.replay import trace_step


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


def policy(model: nn.Module, x: Tensor) -> torch.distributions.Categorical:
    return torch.distributions.Categorical(logits=model(x))


def reward(actions: Tensor, x: Tensor) -> Tensor:
    return (actions == x.argmax(1)).float() - 0.2


def scored_anew(model: nn.Module, x: Tensor) -> Tensor:
    drawn = policy(model, x)
    return -(drawn.log_prob(drawn.sample()) * reward(drawn.sample(), x)).mean()


def scored_by_hand_anew(model: nn.Module, x: Tensor) -> Tensor:
    scores = model(x).log_softmax(1)
    taken, other = (scores.exp().multinomial(1) for _ in range(2))
    return -(scores.gather(1, other).squeeze(1) * reward(taken.squeeze(1), x)).mean()


def scored(model: nn.Module, x: Tensor) -> Tensor:
    drawn = policy(model, x)
    actions = drawn.sample()
    return -(drawn.log_prob(actions) * reward(actions, x)).mean()


def recorded(model: nn.Module, x: Tensor) -> Tensor:
    actions = x.argmin(1)
    return -(policy(model, x).log_prob(actions) * reward(actions, x)).mean()


def drawn_for_the_log(model: nn.Module, x: Tensor) -> Tensor:
    policy(model, x).sample()
    return recorded(model, x)


def rewarded_by_data(model: nn.Module, x: Tensor) -> Tensor:
    """A program that makes up its rewards: nothing says that they are those of another action."""
    drawn = policy(model, x)
    return -(drawn.log_prob(drawn.sample()) * x[:, 0]).mean()


def own_backward(model: nn.Module, x: Tensor) -> float:
    loss = scored_anew(model, x)
    loss.backward()
    return loss.item()


UNWEIGHTED = (scored_anew, scored_by_hand_anew, own_backward)
WEIGHTED = (scored, rewarded_by_data, recorded, drawn_for_the_log, one_draw)


@pytest.mark.parametrize("step", [*UNWEIGHTED, *WEIGHTED], ids=lambda step: step.__name__)
def test_a_score_whose_weight_does_not_know_the_draw(step: Any) -> None:
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(6, 6)), torch.randn(40, 6)
    trace = trace_step(model, step, batch, [])
    assert trace is not None
    before = torch.get_rng_state()
    found = check_drawn_scores(model, step, batch, [], trace)
    assert [each.code for each in found] == (["score-drawn-again"] if step in UNWEIGHTED else [])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_gradient_of_a_score_is_zero_on_average() -> None:
    """The closed form behind it: the gradient of log p, weighted with p, sums to zero."""
    logits = torch.randn(6, requires_grad=True)
    scores = logits.log_softmax(0)
    (gradient,) = torch.autograd.grad((scores.exp().detach() * scores).sum(), logits)
    assert float(gradient.abs().max()) < 1e-6
