"""Healthy programs of the same kinds as planted faults, in the parts that were accused before."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, made
from tests.diagnostics.cases.faults.planted import network

B = 64


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = network(6, 3), network(6, 1)


def clipped_values() -> Made:
    """PPO: both the ratio and the value are clipped, so that many samples are in a branch without gradient."""
    torch.manual_seed(0)
    model = Agent()
    data = [(x, torch.randint(0, 3, (B,)), *torch.randn(3, B)) for x in torch.randn(20, B, 6)]

    def step(model: Any, batch: Any) -> Tensor:
        state, action, gain, before, goal = batch
        now = torch.distributions.Categorical(logits=model.actor(state)).log_prob(action)
        ratio, value = (now + math.log(3)).exp(), model.critic(state)[:, 0]
        policy = torch.max(-gain * ratio, -gain * ratio.clamp(0.8, 1.2)).mean()
        near = before + (value - before).clamp(-0.2, 0.2)
        return policy + 0.5 * torch.max((value - goal) ** 2, (near - goal) ** 2).mean()

    return made(model, step, data, adam(model))


class Rare(nn.Module):
    """A head for classes of which one in a hundred is there, whose bias says so."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 4, 3, 1, 1))
        nn.init.constant_(self.head[-1].bias, -math.log(99.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def rare_classes() -> Made:
    torch.manual_seed(0)
    model, data = Rare(), []
    for x in torch.randn(20, 16, 1, 16, 16):
        hit = (torch.rand(16, 4, 8, 8) < 0.002).float()
        data.append((x + 3 * F.interpolate(hit.amax(1, keepdim=True), scale_factor=2.0), hit))

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])

    return made(model, step, data, adam(model, 1e-3))


class Towers(nn.Module):
    """Scores that are compared two by two: the last bias of the items cancels."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = (
            nn.Embedding(50, 8),
            nn.Sequential(nn.Embedding(80, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)),
        )

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.users(user) * self.items(item)).sum(1)


def ranked_in_pairs() -> Made:
    torch.manual_seed(0)
    model = Towers()
    data = [(user, user * 3 % 80, torch.randint(0, 80, (B,))) for user in torch.randint(0, 50, (20, B))]

    def step(model: nn.Module, batch: Any) -> Tensor:
        return -F.logsigmoid(model(batch[0], batch[1]) - model(batch[0], batch[2])).mean()

    return made(model, step, data, torch.optim.Adam(model.parameters(), 3e-3, weight_decay=1e-4))


PROGRAMS: dict[str, Callable[[], Made]] = {
    "values and ratios that are clipped": clipped_values,
    "a head for rare classes": rare_classes,
    "pairs of items that are ranked": ranked_in_pairs,
}
