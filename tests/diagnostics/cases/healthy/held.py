"""Four healthy programs that were kept until the rules of the other domains stood."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, made


def ranking() -> Made:
    """The batch is the documents of one query: the softmax is over them on purpose."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))

    def step(model: nn.Module, batch: Any) -> Tensor:
        scores = model(batch[0]).squeeze(1)
        return -(batch[1].softmax(0) * scores.log_softmax(0)).sum()

    data = [(x, 2 * x[:, 0] + x[:, 1]) for x in torch.randn(20, 24, 8)]
    return made(model, step, data, adam(model))


class Mixture(nn.Module):
    """A mixture of normal distributions per sample."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 32), nn.Tanh())
        self.weights, self.means, self.scales = nn.Linear(32, 3), nn.Linear(32, 3), nn.Linear(32, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        state = self.body(x)
        scales = F.softplus(self.scales(state)) + 1e-3
        known = (
            -0.5 * ((y - self.means(state)) / scales).square() - scales.log() - 0.5 * math.log(2 * math.pi)
        )
        return -torch.logsumexp(self.weights(state).log_softmax(1) + known, 1).mean()


def mixture() -> Made:
    torch.manual_seed(0)
    model, data = Mixture(), []
    for y in 2 * torch.rand(20, 64, 1) - 1:
        data.append((y + 0.3 * torch.sin(6 * y) + 0.05 * torch.randn_like(y), y))
    return made(model, lambda model, batch: model(*batch), data, adam(model))


def kept_near() -> Made:
    """A second task, with a penalty for leaving the weights of the first: it is 0 when training begins."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))
    before = [weight.detach().clone() for weight in model.parameters()]
    weight = [torch.rand_like(each) for each in before]

    def step(model: nn.Module, batch: Any) -> Tensor:
        moved = zip(model.parameters(), before, weight, strict=True)
        penalty = sum((each * (now - old).square()).sum() for now, old, each in moved)
        return F.cross_entropy(model(batch[0]), batch[1]) + 10 * penalty

    data = [(x, x[:, 4:8].argmax(1)) for x in torch.randn(20, 32, 10)]
    return made(model, step, data, adam(model, 1e-3))


class Predictor(nn.Module):
    """Reads a chunk of a sequence from a given state."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.GRU(3, 24, batch_first=True), nn.Linear(24, 3)

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        found, state = self.read(x, state)
        return self.head(found), state


def in_chunks() -> Made:
    """Long sequences in chunks of eight, each with its own update; the state continues without its graph."""
    torch.manual_seed(0)
    model = Predictor()
    optimizer = adam(model)
    data = []
    for start in 6 * torch.rand(20, 16, 1, 1):
        time = torch.arange(33.0)[:, None]
        data.append((torch.sin(start + 0.3 * time * torch.tensor([1.0, 1.3, 1.7])),))

    def step(model: nn.Module, batch: Any) -> float:
        state, total = None, 0.0
        for first in range(0, 32, 8):
            chunk = batch[0][:, first : first + 9]
            found, state = model(chunk[:, :-1], state)
            loss = F.mse_loss(found, chunk[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            state, total = state.detach(), total + loss.item()
        return total

    return made(model, step, data, optimizer)


PROGRAMS: dict[str, Callable[[], Made]] = {
    "documents ranked within a query": ranking,
    "mixture of distributions": mixture,
    "kept near earlier weights": kept_near,
    "updates within a sequence": in_chunks,
}
