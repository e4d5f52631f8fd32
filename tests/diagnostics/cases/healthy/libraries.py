"""Healthy programs in manners of public libraries that look unusual, written before their rules; own code."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.libraries.objectives import Denoiser
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


class Writer(nn.Module):
    """A recurrent language model over 12 words."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell, self.head = (
            nn.Embedding(12, 24),
            nn.GRU(24, 32, batch_first=True),
            nn.Linear(32, 12),
        )

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(words))[0])


def policy_of_groups() -> Made:
    """Rewards are compared within groups of answers; the ratio of probabilities is exactly 1 (GRPO)."""
    torch.manual_seed(30)
    model = Writer()
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    data = list(torch.randint(0, 12, (10, 6, 4)))

    def step(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        text = batch.repeat_interleave(4, 0)
        with torch.no_grad():
            for _ in range(6):
                text = torch.cat([text, model(text)[:, -1].softmax(1).multinomial(1)], 1)
        reward = (text[:, 4:] % 3 == 0).float().mean(1).unflatten(0, (6, 4))
        advantage = ((reward - reward.mean(1, True)) / (reward.std(1, keepdim=True) + 1e-4)).flatten()
        now = model(text[:, :-1])[:, 3:].log_softmax(2).gather(2, text[:, 4:, None])[..., 0]
        with torch.no_grad():
            first = reference(text[:, :-1])[:, 3:].log_softmax(2).gather(2, text[:, 4:, None])[..., 0]
        ratio = (now - now.detach()).exp()
        gain = torch.minimum(ratio * advantage[:, None], ratio.clamp(0.8, 1.2) * advantage[:, None])
        away = (first - now).exp() - (first - now) - 1
        return {"policy": -gain.mean(), "away": 0.04 * away.mean()}

    return made(model, step, data, adam(model, 1e-3))


class SelfConditioned(nn.Module):
    """A denoiser that is also given an estimate of its own, or zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor, estimate: Tensor, time: Tensor) -> Tensor:
        return self.net(torch.cat([x, estimate, time[:, None]], 1))


def conditioned_on_itself() -> Made:
    """In half of the steps the model first estimates without gradient, and is given its estimate (analog bits)."""
    torch.manual_seed(31)
    model = SelfConditioned()
    data = []
    for angle in 6.28 * torch.rand(16, 48):
        data.append(torch.stack([angle.cos(), angle.sin()], 1))

    def step(model: nn.Module, batch: Any) -> Tensor:
        time = torch.rand(len(batch))
        share = time[:, None]
        mixed = (1 - share) * batch + share * torch.randn_like(batch)
        estimate = torch.zeros_like(mixed)
        if torch.rand(()) < 0.5:
            with torch.no_grad():
                estimate = model(mixed, estimate, time)
        return F.mse_loss(model(mixed, estimate, time), batch)

    return made(model, step, data, adam(model))


def two_evaluations() -> Made:
    """The slope along a random direction, from two evaluations, without a backward pass (MeZO)."""
    torch.manual_seed(32)
    model = classifier()

    @torch.no_grad()
    def shift(size: float, seed: int) -> None:
        drawn = torch.Generator().manual_seed(seed)
        for weight in model.parameters():
            weight.add_(size * torch.randn(weight.shape, generator=drawn))

    def step(model: nn.Module, batch: Any) -> float:
        seed = int(torch.randint(0, 1 << 30, ()))
        losses = []
        with torch.no_grad():
            for size in (1e-3, -2e-3):
                shift(size, seed)
                losses.append(float(loss_of(model, batch)))
        shift(1e-3, seed)
        shift(-2e-3 * (losses[0] - losses[1]) / 2e-3, seed)
        return losses[0]

    return made(model, step, labelled(), torch.optim.SGD(model.parameters(), 2e-3))


def hardest_quarter() -> Made:
    """The loss of the quarter of the samples that is hardest now (online hard example mining)."""
    torch.manual_seed(33)
    model = classifier()
    data = [(x, (x[:, :4] * x[:, 4:8]).argmax(1)) for x in torch.randn(20, 32, 10)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none").topk(8).values.mean()

    return made(model, step, data, adam(model))


class ActNorm(nn.Module):
    """Scale and shift, which the first batch sets."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("ready", torch.tensor(False))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and not self.ready:
            with torch.no_grad():
                self.scale.copy_(-(x.std(0) + 1e-6).log())
                self.shift.copy_(-x.mean(0))
                self.ready.fill_(True)
        return (x + self.shift) * self.scale.exp(), self.scale.sum().expand(len(x))


class Coupling(nn.Module):
    """One half scales and shifts the other; halves change places."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = ActNorm(4)
        self.net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 4))
        nn.init.zeros_(self.net[2].weight)
        nn.init.zeros_(self.net[2].bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, change = self.norm(x)
        kept, moved = x.chunk(2, 1)
        scale, shift = self.net(kept).chunk(2, 1)
        scale = scale.tanh()
        return torch.cat([moved * scale.exp() + shift, kept], 1), change + scale.sum(1)


class Glow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(Coupling() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(len(x))
        for each in self.steps:
            x, change = each(x)
            total = total + change
        return -0.5 * x.square().sum(1) + total


def set_by_first_batch() -> Made:
    """Layers of a flow are set by the first batch, within the forward pass."""
    torch.manual_seed(34)
    model = Glow()
    data = []
    for x in torch.randn(16, 64, 4):
        data.append(
            torch.stack([x[:, 0], x[:, 0] ** 2 + 0.3 * x[:, 1], 5 + x[:, 2], 3 * x[:, 3] - x[:, 2]], 1)
        )
    return made(model, lambda model, batch: -model(batch).mean() / 4, data, adam(model, 1e-3))


class Slots(nn.Module):
    """Three guesses of class and place for the objects of a scene, and of a layer before."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 24)
        self.queries = nn.Parameter(torch.randn(3, 24))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(24, 2, 48, 0.0, batch_first=True) for _ in range(2)
        )
        self.kind, self.place = nn.Linear(24, 3), nn.Linear(24, 1)

    def forward(self, points: Tensor) -> list[tuple[Tensor, Tensor]]:
        memory, x, found = self.embed(points), self.queries.expand(len(points), -1, -1), []
        for layer in self.layers:
            x = layer(x, memory)
            found.append((self.kind(x), self.place(x)[..., 0]))
        return found


def matched_objects() -> Made:
    """Each object is matched with the guess that is cheapest in all; other guesses are to be no object (DETR)."""
    torch.manual_seed(35)
    model = Slots()
    orders = torch.tensor(list(permutations(range(3), 2)))
    data = []
    for kinds in torch.randint(0, 2, (16, 24, 2)):
        places = torch.randn(24, 2)
        points = torch.stack([places, kinds.float(), torch.ones(24, 2)], 2).repeat_interleave(3, 1)
        points[..., 0] += 0.05 * torch.randn(24, 6)
        data.append((points, kinds, places))

    def step(model: nn.Module, batch: Any) -> Tensor:
        points, kinds, places = batch
        total = torch.zeros(())
        for scores, guesses in model(points):
            with torch.no_grad():
                cost = -scores.softmax(2).gather(2, kinds[:, None].expand(-1, 3, -1))
                cost = cost + (guesses[:, :, None] - places[:, None]).abs()
                every = cost[:, orders, torch.arange(2)].sum(2)
                best = orders[every.argmin(1)]
            wanted = torch.full((len(points), 3), 2).scatter(1, best, kinds)
            weight = torch.tensor([1.0, 1.0, 0.2])
            total = total + F.cross_entropy(scores.transpose(1, 2), wanted, weight)
            total = total + F.l1_loss(guesses.gather(1, best), places)
        return total

    return made(model, step, data, adam(model, 1e-3))


class Packed(nn.Module):
    """A frozen matrix in 8 bits, unpacked in each call, with an adapter."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        weight = torch.randn(outputs, inputs) / inputs**0.5
        scale = weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("packed", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.down, self.up = nn.Linear(inputs, 4, bias=False), nn.Linear(4, outputs, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.packed.float() * self.scale) + 2 * self.up(self.down(x))


def adapters_of_bytes() -> Made:
    """Only adapters learn; the network is kept in 8 bits (QLoRA)."""
    torch.manual_seed(36)
    model = nn.Sequential(Packed(10, 32), nn.GELU(), Packed(32, 32), nn.GELU(), Packed(32, 4))
    return made(model, loss_of, labelled(), adam(model))


class Tour(nn.Module):
    """Points at one of six cities after another, never at one that was visited."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.read = nn.Linear(2, 24), nn.GRU(24, 24, batch_first=True)
        self.cell, self.key, self.query = nn.GRUCell(24, 24), nn.Linear(24, 24), nn.Linear(24, 24)

    def forward(self, cities: Tensor, order: Tensor) -> Tensor:
        points = self.embed(cities)
        seen, state = self.read(points)
        keys, state, last = self.key(seen), state[0], torch.zeros(len(cities), 24)
        visited, scores = torch.zeros(len(cities), 6, dtype=torch.bool), []
        for turn in range(6):
            state = self.cell(last, state)
            score = 4 * torch.einsum("bnd,bd->bn", keys, self.query(state)).div(5).tanh()
            scores.append(score.masked_fill(visited, -torch.inf))
            visited = visited.scatter(1, order[:, turn, None], True)
            last = points[torch.arange(len(cities)), order[:, turn]]
        return torch.stack(scores, 1)


def pointing_at_cities() -> Made:
    """Scores of visited cities are minus infinity; the last choice is no choice, with a loss of 0 (pointer network)."""
    torch.manual_seed(37)
    model = Tour()
    data = [(cities, cities[..., 0].argsort(1)) for cities in torch.randn(16, 24, 6, 2)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(*batch).flatten(0, 1), batch[1].flatten())

    return made(model, step, data, adam(model))


def class_sometimes_dropped() -> Made:
    """The class of one sample in five is dropped; later steps count less, and an average is kept (guidance)."""
    torch.manual_seed(38)
    model = Denoiser()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = adam(model)
    data = []
    for labels in torch.randint(0, 4, (20, 48)):
        angle = labels * 1.57 + 0.3 * torch.randn(48)
        data.append((torch.stack([angle.cos(), angle.sin()], 1), labels))

    def step(model: nn.Module, batch: Any) -> float:
        x, labels = batch
        time, noise = torch.rand(len(x)), torch.randn_like(x)
        signal, level = (time * 1.57).cos()[:, None], (time * 1.57).sin()[:, None]
        labels = torch.where(torch.rand(len(x)) < 0.2, 4, labels)
        error = (model(signal * x + level * noise, time, labels) - noise).square().mean(1)
        ratio = (signal / level.clamp_min(1e-3)).square()[:, 0]
        loss = (error * ratio.clamp(max=5) / ratio).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 0.01)
        return loss.item()

    return made(model, step, data, optimizer)


PROGRAMS: dict[str, Callable[[], Made]] = {
    "answers compared within groups": policy_of_groups,
    "estimates given back in half of the steps": conditioned_on_itself,
    "slope from two evaluations": two_evaluations,
    "hardest quarter of a batch": hardest_quarter,
    "flow set by its first batch": set_by_first_batch,
    "objects matched with guesses": matched_objects,
    "adapters of a network in bytes": adapters_of_bytes,
    "cities that are visited once": pointing_at_cities,
    "class dropped now and then": class_sometimes_dropped,
}
