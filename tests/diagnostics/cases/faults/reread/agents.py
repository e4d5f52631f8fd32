"""Faults of agents: old probabilities that are computed again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, made


class Reaching(nn.Module):
    """A Gaussian policy over two numbers, with a learnt deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 2))
        self.log_deviation = nn.Parameter(torch.zeros(2))

    def forward(self, state: Tensor) -> Normal:
        return Normal(self.mean(state), self.log_deviation.exp())


def gaussian_ratio_of_one(broken: bool) -> Made:
    """Old log-probabilities are those of the rollout; broken, each epoch computes them with the policy of now."""
    torch.manual_seed(120)
    model = Reaching()
    optimizer = adam(model)

    def step(model: Any, state: Tensor) -> float:
        with torch.no_grad():
            before = model(state)
            action = before.sample()
            old = before.log_prob(action).sum(-1)
        reward = -(action - state[:, :2]).square().sum(1)
        advantage = (reward - reward.mean()) / (reward.std() + 1e-6)
        for _ in range(3):
            now = model(state).log_prob(action).sum(-1)
            if broken:
                old = model(state).log_prob(action).sum(-1).detach()
            ratio = torch.exp(now - old)
            first, second = ratio * advantage, torch.clamp(ratio, 0.8, 1.2) * advantage
            loss = -torch.minimum(first, second).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    return made(model, step, list(torch.randn(16, 64, 6)), optimizer)


class Chooser(nn.Module):
    """Scores of five actions, and the value of a state."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(7, 48), nn.ReLU())
        self.actions, self.worth = nn.Linear(48, 5), nn.Linear(48, 1)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(state)
        return F.log_softmax(self.actions(hidden), -1), self.worth(hidden).squeeze(-1)


def parts_with_ratio_of_one(broken: bool) -> Made:
    """Parts of a rollout are used in two epochs; broken, with old log-probabilities of the latest policy."""
    torch.manual_seed(121)
    model = Chooser()
    optimizer = adam(model)

    def step(model: Any, state: Tensor) -> float:
        with torch.no_grad():
            scores, worth = model(state)
        action = scores.exp().multinomial(1)
        stored = scores.gather(1, action).squeeze(1)
        gain = state.gather(1, action).squeeze(1)
        advantage = gain - worth
        for _ in range(2):
            for part in torch.randperm(64).split(16):
                scores, worth = model(state[part])
                new = scores.gather(1, action[part]).squeeze(1)
                if broken:
                    with torch.no_grad():
                        old = model(state[part])[0].gather(1, action[part]).squeeze(1)
                else:
                    old = stored[part]
                ratio = (new - old).exp()
                kept = advantage[part]
                surrogate = torch.min(kept * ratio, kept * ratio.clamp(0.9, 1.1)).mean()
                loss = F.mse_loss(worth, gain[part]) - surrogate
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return loss.item()

    return made(model, step, list(torch.randn(16, 64, 7)), optimizer)


CASES = (
    Case(
        "gaussian-ratio-of-one",
        gaussian_ratio_of_one,
        "each epoch computes the old log-probabilities of a Gaussian policy again",
        (Answer("LOSS003", "*", "ratio-of-one"),),
    ),
    Case(
        "parts-with-ratio-of-one",
        parts_with_ratio_of_one,
        "each part of a rollout gets old log-probabilities of the latest policy",
        (Answer("LOSS003", "*", "ratio-of-one"),),
    ),
)
