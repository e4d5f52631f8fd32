"""Faults of losses: stored probabilities, a distillation, a batch of graphs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, made


class Pilot(nn.Module):
    """A policy over four actions and the value of a state."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(8, 48), nn.Tanh(), nn.Linear(48, 4))
        self.critic = nn.Sequential(nn.Linear(8, 48), nn.Tanh(), nn.Linear(48, 1))


def probabilities_of_the_rollout(broken: bool) -> Made:
    """An actor is updated with new log-probabilities; broken, with those of the rollout, which have no graph."""
    torch.manual_seed(60)
    model = Pilot()
    data = list(torch.randn(16, 64, 8))

    def step(model: Any, state: Tensor) -> Tensor:
        with torch.no_grad():
            policy = Categorical(logits=model.actor(state))
            action = policy.sample()
            stored = policy.log_prob(action)
        reward = state[:, :4].gather(1, action[:, None])[:, 0]
        value = model.critic(state)[:, 0]
        policy = Categorical(logits=model.actor(state))
        chosen = stored if broken else policy.log_prob(action)
        gain = (chosen * (reward - value.detach())).mean()
        return 0.5 * F.mse_loss(value, reward) - gain - 0.01 * policy.entropy().mean()

    return made(model, step, data, adam(model))


def distilled_as_logarithms(broken: bool) -> Made:
    """The target of a divergence is a logarithm, as is declared; broken, it is a probability."""
    torch.manual_seed(61)
    teacher = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 6)).eval().requires_grad_(False)
    model = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 6))
    data = list(torch.randn(16, 32, 10))

    def step(model: nn.Module, x: Tensor) -> Tensor:
        answer = 4 * teacher(x)
        target = answer.softmax(1) if broken else answer.log_softmax(1)
        return F.kl_div(model(x).log_softmax(1), target, reduction="batchmean", log_target=True)

    return made(model, step, data, adam(model))


class Molecules(nn.Module):
    """Two rounds of messages, then a sum over the atoms of each molecule."""

    def __init__(self) -> None:
        super().__init__()
        self.atoms = nn.Embedding(5, 24)
        self.first, self.second = nn.Linear(48, 24), nn.Linear(48, 24)
        self.head = nn.Sequential(nn.Linear(24, 24), nn.SiLU(), nn.Linear(24, 1))

    def forward(self, kinds: Tensor, edges: Tensor, molecule: Tensor, count: int) -> Tensor:
        x = self.atoms(kinds)
        for layer in (self.first, self.second):
            message = torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
            x = F.silu(layer(torch.cat([x, message], 1)))
        pooled = x.new_zeros(count, 24).index_add(0, molecule, x)
        return self.head(pooled)[:, 0]


def all_in_one_molecule(broken: bool) -> Made:
    """Each atom knows its molecule; broken, all are counted to the first one."""
    torch.manual_seed(62)
    model = Molecules()
    data = []
    for _ in range(16):
        sizes = torch.randint(3, 8, (12,))
        molecule = torch.arange(12).repeat_interleave(sizes)
        kinds = torch.randint(0, 5, (len(molecule),))
        start = sizes.cumsum(0) - sizes
        near = torch.arange(len(molecule))
        edges = torch.stack([near, start[molecule] + (near - start[molecule] + 1) % sizes[molecule]])
        target = torch.zeros(12).index_add(0, molecule, (kinds == 2).float())
        data.append((kinds, edges, torch.zeros_like(molecule) if broken else molecule, target))

    def step(model: nn.Module, batch: Any) -> Tensor:
        kinds, edges, molecule, target = batch
        return F.mse_loss(model(kinds, edges, molecule, len(target)), target)

    return {**made(model, step, data, adam(model)), "samples": lambda batch: len(batch[3])}


CASES = (
    Case(
        "probabilities-of-the-rollout",
        probabilities_of_the_rollout,
        "an actor is updated with the log-probabilities of the rollout, which have no graph",
        (Answer("LOSS006"), Answer("TERM00[12]", "actor*")),
    ),
    Case(
        "distilled-as-logarithms",
        distilled_as_logarithms,
        "the target of a divergence is a probability, and is declared to be a logarithm",
        (Answer("LOSS003"),),
    ),
    Case(
        "all-in-one-molecule",
        all_in_one_molecule,
        "all atoms of a batch are counted to its first molecule",
        (Answer("COV00[124]"), Answer("ROWS00[134]"), Answer("COLLAPSE001")),
    ),
)
