"""Faults of loops and optimisers: a GAN, a closure, the direction of the updates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


class Pair(nn.Module):
    """A conditional generator and its critic."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(9, 32), nn.LeakyReLU(0.2), nn.Linear(32, 2))
        self.critic = nn.Sequential(nn.Linear(5, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))


def cleared_between_parts(broken: bool) -> Made:
    """A critic learns from real and drawn samples; broken, gradients are cleared between the two."""
    torch.manual_seed(70)
    model = Pair()
    of_generator = torch.optim.Adam(model.generator.parameters(), 1e-3, betas=(0.5, 0.9))
    of_critic = torch.optim.Adam(model.critic.parameters(), 1e-3, betas=(0.5, 0.9))
    data = []
    for kind in torch.randint(0, 3, (16, 32)):
        label = F.one_hot(kind, 3).float()
        data.append((torch.stack([kind.float(), 1 - kind.float()], 1) + 0.1 * torch.randn(32, 2), label))

    def step(model: Any, batch: Any) -> float:
        real, label = batch
        fake = model.generator(torch.cat([torch.randn(len(real), 6), label], 1))
        of_critic.zero_grad()
        on_real = F.softplus(-model.critic(torch.cat([real, label], 1))).mean()
        on_real.backward()
        if broken:
            of_critic.zero_grad()
        on_fake = F.softplus(model.critic(torch.cat([fake.detach(), label], 1))).mean()
        on_fake.backward()
        of_critic.step()
        of_generator.zero_grad()
        loss = F.softplus(-model.critic(torch.cat([fake, label], 1))).mean()
        loss.backward()
        of_generator.step()
        return loss.item()

    return made(model, step, data, [of_generator, of_critic])


def closure_adds_up(broken: bool) -> Made:
    """The closure of a line search clears the gradients; broken, they are cleared before the search alone."""
    torch.manual_seed(71)
    model = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
    points = 2 * torch.rand(128, 2) - 1
    data = [(points, (3 * points[:, :1]).sin() * points[:, 1:])] * 10

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()

        def closure() -> Tensor:
            if not broken:
                optimizer.zero_grad()
            loss = F.mse_loss(model(batch[0]), batch[1])
            loss.backward()
            return loss

        return optimizer.step(closure).item()

    return made(model, step, data, optimizer)


def updates_upwards(broken: bool) -> Made:
    """An optimiser minimises; broken, it was made for a gain, and maximises the loss."""
    torch.manual_seed(72)
    model = classifier()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, maximize=broken)
    return made(model, loss_of, labelled(), optimizer)


CASES = (
    Case(
        "cleared-between-parts",
        cleared_between_parts,
        "the gradients of a critic are cleared between real and drawn samples",
        (
            Answer("MOVE004", "critic*"),
            Answer("GRAD006", "critic*"),
            Answer("MOVE004", ""),
            Answer("GRAD006", ""),
        ),
    ),
    Case(
        "closure-adds-up",
        closure_adds_up,
        "the closure of a line search does not clear the gradients",
        (Answer("GRAD004"), Answer("GRAD006")),
    ),
    Case(
        "updates-upwards",
        updates_upwards,
        "the optimiser maximises the loss",
        (Answer("LOSS004"),),
    ),
)
