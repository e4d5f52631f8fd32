"""Eight healthy programs of several domains, as arguments of an audit: no tool may accuse them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, labelled, made


class Slots(nn.Module):
    """Slots that compete for the parts of a set: the softmax is over the slots, three rounds with shared weights."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(3, 16))
        self.enter, self.key, self.value = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.query, self.update = nn.Linear(16, 16), nn.GRUCell(16, 16)
        self.norm, self.leave = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        found = self.norm(self.enter(parts))
        key, value = self.key(found), self.value(found)
        slots = self.start.expand(len(parts), 3, 16)
        for _ in range(3):
            shares = (self.query(slots) @ key.transpose(1, 2) / 4).softmax(1)
            weights = shares / (shares.sum(2, keepdim=True) + 1e-8)
            slots = self.update((weights @ value).flatten(0, 1), slots.flatten(0, 1)).view(slots.shape)
        return self.leave(slots), shares


def slot_attention() -> Made:
    """Reconstructs each part from the slots that hold it."""
    torch.manual_seed(0)
    model = Slots()
    data = []
    for centres in 2 * torch.randn(20, 32, 3, 4):
        which = torch.arange(9) % 3
        data.append((centres[:, which] + 0.1 * torch.randn(32, 9, 4),))

    def step(model: nn.Module, batch: Any) -> Tensor:
        slots, shares = model(batch[0])
        return F.mse_loss(shares.transpose(1, 2) @ slots, batch[0])

    return made(model, step, data, adam(model))


def random_distillation() -> Made:
    """Curiosity: a network predicts the output of a random one that is never trained; the error is the bonus."""
    torch.manual_seed(0)
    target = nn.Sequential(nn.Linear(8, 32), nn.LeakyReLU(), nn.Linear(32, 16)).requires_grad_(False)
    guess = nn.Sequential(nn.Linear(8, 32), nn.LeakyReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))
    model = nn.ModuleDict({"target": target, "guess": guess})

    def step(model: Any, batch: Any) -> Tensor:
        seen = batch[0].clamp(-5, 5)
        bonus = (model["guess"](seen) - model["target"](seen)).square().mean(1)
        return (bonus * (torch.rand(len(bonus)) < 0.5)).sum() / (len(bonus) / 2)

    return made(model, step, [(x,) for x in torch.randn(20, 64, 8)], adam(guess)) | {
        "expect_frozen": ["target"]
    }


def variance_and_covariance() -> Made:
    """Two views, a hinge on the deviation of each feature over the batch, and covariances that are to vanish."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))

    def spread(z: Tensor) -> Tensor:
        z = z - z.mean(0)
        joint = z.T @ z / (len(z) - 1)
        apart = joint.square().sum() - joint.diagonal().square().sum()
        return F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() + 0.04 * apart / z.shape[1]

    def step(model: nn.Module, batch: Any) -> Tensor:
        one, other = (model(batch[0] + 0.3 * torch.randn_like(batch[0])) for _ in range(2))
        return 25 * F.mse_loss(one, other) + spread(one) + spread(other)

    return made(model, step, [(x,) for x in torch.randn(20, 64, 12)], adam(model))


def reptile() -> Made:
    """Each step is a task: four updates of the weights, which then go back most of the way."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    data = []
    for _ in range(20):
        height, phase = 1 + 4 * torch.rand(1), math.pi * torch.rand(1)
        x = 10 * torch.rand(40, 1) - 5
        data.append((x, height * torch.sin(x + phase)))

    def step(model: nn.Module, batch: Any) -> float:
        before = [weight.detach().clone() for weight in model.parameters()]
        for part in range(4):
            rows = slice(10 * part, 10 * part + 10)
            loss = F.mse_loss(model(batch[0][rows]), batch[1][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for weight, old in zip(model.parameters(), before, strict=True):
                weight.copy_(old + 0.2 * (weight - old))
        return loss.item()

    return made(model, step, data, optimizer)


def evolution() -> Made:
    """No backward pass: the gradient is estimated from the losses of disturbed weights, and written by hand."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 4))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    @torch.no_grad()
    def step(model: nn.Module, batch: Any) -> float:
        weights = list(model.parameters())
        optimizer.zero_grad()
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        for _ in range(8):
            noise = [torch.randn_like(weight) for weight in weights]
            losses = []
            for sign in (1, -2):
                for weight, one in zip(weights, noise, strict=True):
                    weight.add_(one, alpha=0.05 * sign)
                losses.append(F.cross_entropy(model(batch[0]), batch[1]))
            for weight, one in zip(weights, noise, strict=True):
                weight.add_(one, alpha=0.05)
                weight.grad.add_(one, alpha=float(losses[0] - losses[1]) / (2 * 0.05 * 8))
        optimizer.step()
        return float(losses[0])

    return made(model, step, labelled(), optimizer)


class Tagger(nn.Module):
    """Scores of tags per token, and transitions, some of which are forbidden; the loss is that of whole paths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.read = nn.Embedding(20, 16), nn.GRU(16, 16, batch_first=True, bidirectional=True)
        self.head, self.moves = nn.Linear(32, 4), nn.Parameter(torch.zeros(4, 4))
        self.register_buffer("forbidden", torch.tensor([[0.0, 0, 0, -1e4]] + 3 * [[0.0, 0, 0, 0]]))

    def forward(self, ids: Tensor, tags: Tensor) -> Tensor:
        scores = self.head(self.read(self.embed(ids))[0])
        moves = self.moves + self.forbidden
        right = scores.gather(2, tags[:, :, None]).sum((1, 2)) + moves[tags[:, :-1], tags[:, 1:]].sum(1)
        every = scores[:, 0]
        for place in range(1, ids.shape[1]):
            every = torch.logsumexp(every[:, :, None] + moves, 1) + scores[:, place]
        return (every.logsumexp(1) - right).mean()


def random_field() -> Made:
    torch.manual_seed(0)
    model, data = Tagger(), []
    for ids in torch.randint(0, 20, (20, 32, 7)):
        tags = ids % 4
        tags[:, 1:] = torch.where((tags[:, :-1] == 0) & (tags[:, 1:] == 3), 2, tags[:, 1:])
        data.append((ids, tags))
    return made(model, lambda model, batch: model(*batch), data, adam(model))


def preferences() -> Made:
    """A policy is moved from a frozen copy of itself by which of two answers is better: all margins start at 0."""
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Embedding(16, 24), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 16))
    model = nn.ModuleDict({"policy": policy, "reference": copy.deepcopy(policy).requires_grad_(False)})
    data = []
    for ids in torch.randint(0, 16, (20, 32)):
        good = (ids + 1) % 16
        data.append((ids, good, (good + torch.randint(1, 16, (32,))) % 16))

    def step(model: Any, batch: Any) -> Tensor:
        ids, good, bad = batch
        with torch.no_grad():
            known = model["reference"](ids).log_softmax(1)
        moved = model["policy"](ids).log_softmax(1) - known
        margin = moved.gather(1, good[:, None]) - moved.gather(1, bad[:, None])
        return -F.logsigmoid(0.5 * margin).mean()

    return made(model, step, data, adam(policy)) | {"expect_frozen": ["reference"]}


def warm_restarts() -> Made:
    """The rate falls to nearly zero and starts again every six steps, as in SGDR."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=6)

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss.item()

    return made(model, step, labelled(), optimizer)


PROGRAMS: dict[str, Callable[[], Made]] = {
    "slots that compete": slot_attention,
    "error against a random network": random_distillation,
    "variance and covariance of features": variance_and_covariance,
    "updates taken back in part (Reptile)": reptile,
    "gradient without a backward pass": evolution,
    "conditional random field": random_field,
    "preferences against a frozen copy": preferences,
    "rate with warm restarts": warm_restarts,
}
