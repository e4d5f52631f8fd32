"""Seven healthy programs with parts that look broken, as arguments of an audit: no tool may accuse them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


class Excited(nn.Module):
    """A convolution whose channels are weighted by gates that look at the averages of all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.gate = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 32), nn.Sigmoid())
        self.head = nn.Linear(32, 4)

    def forward(self, images: Tensor) -> Tensor:
        found = self.norm(self.conv(images)).relu()
        weighted = found * self.gate(found.mean((2, 3)))[:, :, None, None]
        return self.head(weighted.amax((2, 3)))


def squeeze_and_excite() -> Made:
    """The gate is nearly the same for all images, and what it is multiplied with is not."""
    torch.manual_seed(0)
    model = Excited()
    data = [(x, x.mean((2, 3)).argmax(1)) for x in torch.randn(10, 32, 3, 12, 12)]
    return made(model, loss_of, data, adam(model))


def critic_with_soft_labels() -> Made:
    """A GAN with spectral norm, whose labels of real samples are drawn from 0.8 to 1."""
    torch.manual_seed(0)
    norm = parametrizations.spectral_norm
    model = nn.ModuleDict(
        {
            "generator": nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 6)),
            "critic": nn.Sequential(norm(nn.Linear(6, 32)), nn.LeakyReLU(0.2), norm(nn.Linear(32, 1))),
        }
    )
    optimizers = [adam(model["generator"]), adam(model["critic"])]

    def step(model: Any, batch: Any) -> float:
        real = batch[0]
        optimizers[1].zero_grad()
        fake = model["generator"](torch.randn(len(real), 4))
        soft = 0.8 + 0.2 * torch.rand(len(real), 1)
        right = F.binary_cross_entropy_with_logits(model["critic"](real), soft)
        wrong = F.binary_cross_entropy_with_logits(model["critic"](fake.detach()), torch.zeros(len(real), 1))
        (right + wrong).backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        loss = F.binary_cross_entropy_with_logits(model["critic"](fake), torch.ones(len(real), 1))
        loss.backward()
        optimizers[0].step()
        return loss.item()

    return made(model, step, [(x,) for x in torch.randn(20, 32, 6)], optimizers)


class Uncertain(nn.Module):
    """Dropout that stays on in evaluation, so that several passes show how sure the model is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(10, 64), nn.Linear(64, 64), nn.Linear(64, 4)
        self.mc_dropout = True

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.first(x).relu(), 0.2, training=self.training or self.mc_dropout)
        x = F.dropout(self.second(x).relu(), 0.2, training=self.training or self.mc_dropout)
        return self.head(x)


def dropout_for_uncertainty() -> Made:
    torch.manual_seed(0)
    model = Uncertain()
    return made(model, loss_of, labelled(), adam(model))


class Checkpointed(nn.Module):
    """Blocks that are computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(10, 32), nn.Linear(32, 4)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 32))
            for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        state = self.enter(x)
        for block in self.blocks:
            state = state + checkpoint(block, state, use_reentrant=False)
        return self.head(state)


def mean_teacher() -> Made:
    """A student with checkpoints, and a teacher that averages its weights and sets targets without labels."""
    torch.manual_seed(0)
    student = Checkpointed()
    teacher = copy.deepcopy(student).requires_grad_(False)
    model = nn.ModuleDict({"student": student, "teacher": teacher})
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3)

    def step(model: Any, batch: Any) -> float:
        x, y = batch
        logits = model["student"](x + 0.1 * torch.randn_like(x))
        with torch.no_grad():
            wanted = model["teacher"](x + 0.1 * torch.randn_like(x)).softmax(1)
        loss = F.cross_entropy(logits[:8], y[:8]) + F.mse_loss(logits.softmax(1), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(model["teacher"].parameters(), model["student"].parameters(), strict=True):
                slow.lerp_(fast, 0.01)
        return loss.item()

    return made(model, step, labelled(), optimizer)


class Routed(nn.Module):
    """Sixteen experts for eight samples, one each: most experts are idle in a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.router, self.head = (
            nn.Linear(10, 24),
            nn.Linear(24, 16, bias=False),
            nn.Linear(24, 4),
        )
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 24)) for _ in range(16)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state = self.enter(x).relu()
        shares = self.router(state).softmax(1)
        gate, chosen = shares.max(1)
        mixed = torch.zeros_like(state)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero().flatten()
            if len(rows):
                mixed[rows] = expert(state[rows]) * gate[rows, None]
        used = F.one_hot(chosen, 16).float().mean(0)
        return self.head(state + mixed), 16 * (used * shares.mean(0)).sum()


def many_idle_experts() -> Made:
    torch.manual_seed(0)
    model = Routed()

    def step(model: nn.Module, batch: Any) -> Tensor:
        logits, balance = model(batch[0])
        return F.cross_entropy(logits, batch[1]) + 0.01 * balance

    data = [(x, x[:, :4].argmax(1)) for x in torch.randn(20, 8, 10)]
    return made(model, step, data, adam(model))


class Turning(nn.Module):
    """Blocks that begin as the identity, by a factor of zero, and a head per task."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(10, 32)
        self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.factors = nn.Parameter(torch.zeros(3))
        self.classes, self.sizes = nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, x: Tensor, task: str) -> Tensor:
        state = self.enter(x)
        for factor, block in zip(self.factors, self.blocks, strict=True):
            state = state + factor * block(state).relu()
        return self.classes(state) if task == "class" else self.sizes(state)


def heads_in_turn() -> Made:
    torch.manual_seed(0)
    model = Turning()
    turn = [0]

    def step(model: nn.Module, batch: Any) -> Tensor:
        turn[0] += 1
        if turn[0] % 2:
            return F.cross_entropy(model(batch[0], "class"), batch[1])
        return F.smooth_l1_loss(model(batch[0], "size").squeeze(1), batch[0].norm(dim=1))

    return made(model, step, labelled(), adam(model))


class Weighted(nn.Module):
    """A critic with weight normalisation, one output and no activation at its end."""

    def __init__(self) -> None:
        super().__init__()
        norm = parametrizations.weight_norm
        self.layers = nn.Sequential(
            norm(nn.Linear(8, 32)),
            nn.LeakyReLU(0.2),
            norm(nn.Linear(32, 32)),
            nn.LeakyReLU(0.2),
            norm(nn.Linear(32, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(1)


def critic_with_penalty() -> Made:
    """A Wasserstein critic with a gradient penalty, trained against fixed samples."""
    torch.manual_seed(0)
    model = Weighted()

    def step(model: nn.Module, batch: Any) -> Tensor:
        real, fake = batch
        mix = torch.rand(len(real), 1)
        between = (mix * real + (1 - mix) * fake).requires_grad_(True)
        (slopes,) = torch.autograd.grad(model(between).sum(), between, create_graph=True)
        penalty = (slopes.norm(2, dim=1) - 1).square().mean()
        return model(fake).mean() - model(real).mean() + 10 * penalty

    data = [(1 + 0.5 * torch.randn(64, 8), torch.randn(64, 8)) for _ in range(20)]
    return made(model, step, data, adam(model))


PROGRAMS: dict[str, Callable[[], Made]] = {
    "squeeze and excite": squeeze_and_excite,
    "GAN with drawn labels": critic_with_soft_labels,
    "dropout for uncertainty": dropout_for_uncertainty,
    "mean teacher with checkpoints": mean_teacher,
    "sixteen experts for eight samples": many_idle_experts,
    "heads in turn, blocks that begin as nothing": heads_in_turn,
    "critic with weight normalisation": critic_with_penalty,
}
