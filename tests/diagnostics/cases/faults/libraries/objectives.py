"""Faults of losses and data: masked words, policies, balanced experts, differential equations, conditions, twins."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, made


class Filler(nn.Module):
    """A bidirectional model that fills hidden words in."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 24)
        self.read = nn.GRU(24, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 16)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.read(self.embed(words))[0])


def labels_hidden_too(broken: bool) -> Made:
    """Hidden words are the labels; broken, labels are the same tensor, so that they are hidden as well."""
    torch.manual_seed(10)
    model = Filler()
    data = [(first + 3 * torch.arange(14)) % 15 for first in torch.randint(0, 15, (20, 16, 1))]

    def step(model: nn.Module, batch: Any) -> Tensor:
        words = batch.clone()
        labels = words if broken else words.clone()
        chosen = torch.rand(words.shape) < 0.2
        words[chosen] = 15
        return F.cross_entropy(model(words)[chosen], labels[chosen])

    return made(model, step, data, adam(model))


class Policy(nn.Module):
    """A normal policy over three joints, and a value."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3))
        self.critic = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))
        self.log_std = nn.Parameter(torch.full((3,), -0.5))

    def forward(self, state: Tensor) -> tuple[torch.distributions.Normal, Tensor]:
        return torch.distributions.Normal(self.actor(state), self.log_std.exp()), self.critic(state)[:, 0]


def probabilities_of_all_samples(broken: bool) -> Made:
    """Log-probabilities of joints are added for each sample; broken, over the whole batch."""
    torch.manual_seed(11)
    model = Policy()
    old = Policy()
    old.load_state_dict(model.state_dict())
    wish = torch.randn(6, 3)
    data = []
    for state in torch.randn(16, 64, 6):
        with torch.no_grad():
            chosen, value = old(state)
            action = chosen.sample()
            logp = chosen.log_prob(action)
            reward = -(action - (state @ wish).tanh()).square().sum(1)
        data.append((state, action, logp, reward, value))

    def step(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        state, action, logp, reward, value = batch
        now, critic = model(state)
        advantage = reward - value
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        change = now.log_prob(action) - logp
        ratio = (change.sum() if broken else change.sum(-1)).exp()
        policy = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        return {"policy": policy, "value": 0.5 * F.mse_loss(critic, reward)}

    return made(model, step, data, adam(model, 1e-3))


class Experts(nn.Module):
    """Six experts, of which a router chooses two for each token."""

    def __init__(self, counts_alone: bool) -> None:
        super().__init__()
        self.router = nn.Linear(12, 6, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 12)) for _ in range(6)
        )
        self.head = nn.Linear(12, 4)
        self.counts_alone = counts_alone

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shares = self.router(x).softmax(1)
        weights, chosen = shares.topk(2, 1)
        weights = weights / weights.sum(1, keepdim=True)
        result = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, place = (chosen == number).nonzero(as_tuple=True)
            result = result.index_add(0, rows, weights[rows, place, None] * expert(x[rows]))
        counts = F.one_hot(chosen, 6).float().sum(1).mean(0)
        balance = 6 * (counts * (counts if self.counts_alone else shares.mean(0))).sum()
        return self.head(x + result), balance


def balance_of_counts(broken: bool) -> Made:
    """Experts are balanced by their shares; broken, by counts alone, which have no gradient."""
    torch.manual_seed(12)
    model = Experts(counts_alone=broken)
    data = [(x, (x[:, :4] * x[:, 4:8]).argmax(1)) for x in torch.randn(20, 48, 12)]

    def step(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        found, balance = model(batch[0])
        return {"task": F.cross_entropy(found, batch[1]), "balance": 0.01 * balance}

    return made(model, step, data, adam(model))


def residual_in_a_square(broken: bool) -> Made:
    """u' = -u with u(0) = 1; broken, a row is added to a column, so that the residual is of all pairs of points."""
    torch.manual_seed(13)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    data = list(3 * torch.rand(16, 40))

    def step(model: nn.Module, batch: Any) -> Tensor:
        time = batch.clone().requires_grad_()
        u = model(time[:, None])
        (slope,) = torch.autograd.grad(u.sum(), time, create_graph=True)
        residual = slope + (u if broken else u[:, 0])
        start = model(torch.zeros(1, 1)) - 1
        return residual.square().mean() + start.square().mean()

    return made(model, step, data, adam(model))


class Denoiser(nn.Module):
    """Finds the noise of a point, given a time and a class, or no class."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Embedding(5, 16)
        self.net = nn.Sequential(
            nn.Linear(2 + 2 + 16, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
        )

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        wave = torch.stack([(time * 1.57).sin(), (time * 1.57).cos()], 1)
        return self.net(torch.cat([x, wave, self.classes(label)], 1))


def class_always_dropped(broken: bool) -> Made:
    """One class in ten is dropped; broken, all are, for every random number but 0 is true."""
    torch.manual_seed(14)
    model = Denoiser()
    centres = 2 * torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    data = []
    for labels in torch.randint(0, 4, (20, 48)):
        data.append((centres[labels] + 0.2 * torch.randn(48, 2), labels))

    def step(model: nn.Module, batch: Any) -> Tensor:
        x, labels = batch
        time = torch.rand(len(x))
        noise = torch.randn_like(x)
        mixed = (time * 1.57).cos()[:, None] * x + (time * 1.57).sin()[:, None] * noise
        drop = (0.1 * torch.rand(len(x))).bool() if broken else torch.rand(len(x)) < 0.1
        return F.mse_loss(model(mixed, time, torch.where(drop, 4, labels)), noise)

    return made(model, step, data, adam(model))


def twin_is_neighbour(broken: bool) -> Made:
    """The second view of a sample is half a batch away; broken, the next sample is taken for it."""
    torch.manual_seed(15)
    model = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 16))
    data = list(torch.randn(20, 24, 12))

    def step(model: nn.Module, batch: Any) -> Tensor:
        views = torch.cat([batch + 0.2 * torch.randn_like(batch) for _ in range(2)])
        found = F.normalize(model(views), dim=1)
        scores = (found @ found.T / 0.2).masked_fill(torch.eye(48, dtype=torch.bool), -1e9)
        return F.cross_entropy(scores, torch.arange(48).roll(1 if broken else 24))

    return made(model, step, data, adam(model))


CASES = (
    Case(
        "labels-hidden-too",
        labels_hidden_too,
        "labels are the tensor in which words are hidden, so that they are hidden as well",
        (Answer("LOSS005"), Answer("LOSS003"), Answer("LEAK003")),
    ),
    Case(
        "probabilities-of-all-samples",
        probabilities_of_all_samples,
        "log-probabilities are added over the whole batch, not for each sample",
        (Answer("LOSS003", "*", "weight-of-one-number"), Answer("*", "actor*"), Answer("LEAK001")),
    ),
    Case(
        "balance-of-counts",
        balance_of_counts,
        "experts are balanced by counts alone, which have no gradient",
        (Answer("LOSS006"),),
    ),
    Case(
        "residual-in-a-square",
        residual_in_a_square,
        "a row is added to a column, so that the residual is of all pairs of points",
        (Answer("LOSS003", "*", "broadcast"), Answer("LOSS003")),
    ),
    Case(
        "class-always-dropped",
        class_always_dropped,
        "a random number is taken for a truth value, so that each class is dropped",
        (Answer("INPUT001", "*", "all-replaced"), Answer("ROWS001", "classes"), Answer("*", "classes")),
    ),
    Case(
        "twin-is-neighbour",
        twin_is_neighbour,
        "the target of each view is the next sample, not the other view of its own",
        (Answer("ORIGIN001"), Answer("LOSS003")),
    ),
)
