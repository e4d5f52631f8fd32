"""Variations of numbers that are not finite, of checkpoints and of a scaled loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.losses import Made


class ConvEncoder(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.block = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
        self.project = nn.Linear(width, 6)

    def forward(self, images: Tensor) -> Tensor:
        return self.project(self.block(self.stem(images)).mean((2, 3)))


def siamese_distance(broken: bool) -> Made:
    """A contrast of pairs, some of which are one image twice; broken, its distance is the root of exactly 0."""
    torch.manual_seed(3)
    net = ConvEncoder()
    optimizer = torch.optim.RMSprop(net.parameters(), 1e-3)
    loader = []
    for _ in range(8):
        left, right = torch.randn(2, 16, 1, 8, 8)
        same = torch.rand(16) < 0.5
        loader.append(
            {"left": left, "right": torch.where(same[:, None, None, None], left, right), "same": same}
        )

    def contrast(net: nn.Module, pairs: dict[str, Tensor]) -> Tensor:
        # one call for both sides: twins have bitwise equal features
        both = net(torch.cat([pairs["left"], pairs["right"]]))
        left, right = both.chunk(2)
        squared = (left - right).pow(2).sum(1)
        distance = torch.sqrt(squared if broken else squared + 1e-8)
        return torch.where(pairs["same"], distance.pow(2), F.relu(1 - distance).pow(2)).mean()

    return {
        "model": net,
        "optimizer": optimizer,
        "batches": loader,
        "step": contrast,
        "samples": lambda pairs: len(pairs["same"]),
    }


class GraphNet(nn.Module):
    """Nodes send messages along edges; graphs are read by mean and deviation of their nodes."""

    def __init__(self, unbiased: bool) -> None:
        super().__init__()
        self.unbiased = unbiased
        self.enter = nn.Linear(4, 12)
        self.message = nn.Linear(24, 12)
        self.readout = nn.Linear(24, 3)

    def forward(self, nodes: Tensor, edges: Tensor, graphs: Tensor, count: int) -> Tensor:
        state = torch.relu(self.enter(nodes))
        sent = self.message(torch.cat([state[edges[0]], state[edges[1]]], 1))
        state = torch.relu(state + torch.zeros_like(state).index_add(0, edges[1], sent))
        means, spreads = [], []
        for graph in range(count):
            own = state[graphs == graph]
            means.append(own.mean(0))
            spreads.append(own.std(0) if self.unbiased else (own.var(0, unbiased=False) + 1e-6).sqrt())
        return self.readout(torch.cat([torch.stack(means), torch.stack(spreads)], 1))


def deviation_of_one(broken: bool) -> Made:
    """Graphs are pooled by deviations of nodes; broken, that of a graph with one node is 0 divided by 0."""
    torch.manual_seed(4)
    net = GraphNet(broken)
    loader = []
    for _ in range(6):
        sizes = torch.randint(2, 6, (12,))
        sizes[5] = 1
        graphs = torch.repeat_interleave(torch.arange(12), sizes)
        nodes = torch.randn(len(graphs), 4)
        edges = torch.stack([torch.arange(len(graphs)), torch.arange(len(graphs)).roll(1)])
        edges = edges[:, graphs[edges[0]] == graphs[edges[1]]]
        labels = torch.stack([nodes[graphs == graph].mean(0)[:3].argmax() for graph in range(12)])
        loader.append((nodes, edges, graphs, labels))

    def step(net: nn.Module, batch: Any) -> Tensor:
        nodes, edges, graphs, labels = batch
        return F.cross_entropy(net(nodes, edges, graphs, len(labels)), labels)

    return {
        "model": net,
        "optimizer": torch.optim.AdamW(net.parameters(), 2e-3),
        "batches": loader,
        "step": step,
        "samples": lambda batch: len(batch[3]),
    }


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.torso = nn.Sequential(nn.Linear(6, 32), nn.Tanh())
        self.actor, self.critic = nn.Linear(32, 5), nn.Linear(32, 1)

    def forward(self, observed: Tensor) -> tuple[Tensor, Tensor]:
        state = self.torso(observed)
        return 400 * self.actor(state), self.critic(state).squeeze(-1)


def entropy_of_zero(broken: bool) -> Made:
    """An entropy bonus; broken, by the logarithm of a probability that underflows."""
    torch.manual_seed(5)
    net = Agent()

    def step(net: nn.Module, batch: Any) -> Tensor:
        observed, actions, gain = batch
        scores, value = net(observed)
        chances = scores.softmax(-1)
        logarithms = chances.log() if broken else scores.log_softmax(-1)
        entropy = -(chances * logarithms).sum(-1)
        surprise = F.cross_entropy(scores / 400, actions, reduction="none")
        return (surprise * (gain - value.detach())).mean() + F.mse_loss(value, gain) - 1e-3 * entropy.mean()

    loader = [(torch.randn(24, 6), torch.randint(0, 5, (24,)), torch.randn(24)) for _ in range(10)]
    return {
        "model": net,
        "optimizer": torch.optim.Adam(net.parameters(), 1e-3),
        "batches": loader,
        "step": step,
    }


class Pictures(nn.Module):
    """A convolutional VAE, which returns its loss."""

    def __init__(self, bounded: bool) -> None:
        super().__init__()
        self.bounded = bounded
        self.down = nn.Sequential(
            nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 32), nn.ReLU()
        )
        self.mean, self.logvar = nn.Linear(32, 4), nn.Linear(32, 4)
        self.up = nn.Sequential(nn.Linear(4, 128), nn.ReLU(), nn.Unflatten(1, (8, 4, 4)))
        self.paint = nn.ConvTranspose2d(8, 1, 4, 2, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        code = self.down(images)
        mean, logvar = self.mean(code), self.logvar(code)
        if self.bounded:
            logvar = logvar.clamp(-6, 3)
        drawn = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        painted = self.paint(self.up(drawn)).sigmoid()
        divergence = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).sum(1).mean()
        return {"loss": F.mse_loss(painted, images) + 1e-3 * divergence, "image": painted}


def variance_overflows(broken: bool) -> Made:
    """A VAE; broken, the logarithm of its variance begins at 100 without a bound, and its exponential overflows."""
    torch.manual_seed(6)
    net = Pictures(not broken)
    with torch.no_grad():
        net.logvar.bias.fill_(100.0 if broken else -2.0)
    loader = [(torch.rand(16, 1, 8, 8).round(),) for _ in range(6)]
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    return {
        "model": net,
        "optimizer": optimizer,
        "batches": loader,
        "step": lambda net, batch: net(*batch)["loss"],
    }


class Normed(torch.optim.Optimizer):
    """Divides each gradient by a running mean of its size, which is 0 where no gradient ever was."""

    def __init__(self, params: Any, lr: float, eps: float) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    size = self.state[weight].setdefault("size", torch.zeros_like(weight))
                    size.lerp_(weight.grad.abs(), 0.1)
                    weight.sub_(group["lr"] * weight.grad / (size + group["eps"]))


def optimizer_without_eps(broken: bool) -> Made:
    """An own optimiser divides by running sizes; broken, by 0 for words that no batch has had."""
    torch.manual_seed(7)
    net = nn.ModuleDict({"words": nn.Embedding(50, 12), "cell": nn.GRU(12, 16, batch_first=True)})
    net["out"] = nn.Linear(16, 50)

    def step(net: Any, ids: Tensor) -> Tensor:
        states, _ = net["cell"](net["words"](ids[:, :-1]))
        return F.cross_entropy(net["out"](states).flatten(0, 1), ids[:, 1:].flatten())

    loader = list(torch.randint(0, 20, (8, 12, 9)))
    optimizer = Normed(net.parameters(), 1e-3, 0.0 if broken else 1e-6)
    return {"model": net, "optimizer": optimizer, "batches": loader, "step": step}


class Reader(nn.Module):
    """nn.MultiheadAttention over padded sequences, read at their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, ids: Tensor, hidden: Tensor) -> Tensor:
        state = self.embed(ids)
        seen, _ = self.attend(state, state, state, key_padding_mask=hidden)
        return self.head((state + seen).mean(1))


def empty_sequence(broken: bool) -> Made:
    """Attention over padded sequences; broken, one of them has padding alone."""
    torch.manual_seed(8)
    net = Reader()
    loader = []
    for ids in torch.randint(1, 20, (8, 16, 7)):
        lengths = torch.randint(0 if broken else 1, 8, (16,))
        lengths[3] = 0 if broken else 1
        loader.append((ids, torch.arange(7) >= lengths[:, None], ids[:, 0] % 3))

    def step(net: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(net(batch[0], batch[1]), batch[2])

    return {
        "model": net,
        "optimizer": torch.optim.AdamW(net.parameters(), 1e-3),
        "batches": loader,
        "step": step,
    }


class Refiner(nn.Module):
    """One cell refines an answer many times."""

    def __init__(self, normalised: bool) -> None:
        super().__init__()
        self.encode = nn.Linear(5, 24)
        self.cell = nn.Linear(24, 24)
        self.norm = nn.LayerNorm(24) if normalised else nn.Identity()
        self.answer = nn.Linear(24, 2)

    def forward(self, question: Tensor) -> Tensor:
        state = read = self.encode(question)
        for _ in range(120):
            state = self.norm(state + F.relu(self.cell(state + read)))
        return self.answer(state)


def recursion_explodes(broken: bool) -> Made:
    """A cell is applied 120 times; broken, nothing keeps its state from growing beyond all numbers."""
    torch.manual_seed(9)
    net = Refiner(not broken)
    with torch.no_grad():
        net.cell.weight.copy_(1.5 * torch.eye(24) + 0.05 * torch.randn(24, 24))
    loader = [(x, (x[:, 0] > 0).long()) for x in torch.randn(8, 20, 5)]
    return {
        "model": net,
        "optimizer": torch.optim.Adam(net.parameters(), 1e-4),
        "batches": loader,
        "step": lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]),
    }


class Adapter(nn.Module):
    """A frozen convolution with a trainable bottleneck beside it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.base = nn.Conv2d(width, width, 3, padding=1)
        self.base.requires_grad_(False)
        self.narrow, self.wide = nn.Conv2d(width, 2, 1), nn.Conv2d(2, width, 1)

    def forward(self, state: Tensor) -> Tensor:
        return F.gelu(self.base(state) + self.wide(F.gelu(self.narrow(state))))


class AdaptedVision(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.patch = nn.Conv2d(1, 8, 2, 2)
        self.patch.requires_grad_(False)
        self.stages = nn.ModuleList([Adapter(8), Adapter(8)])
        self.classify = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        state = self.patch(images)
        for stage in self.stages:
            state = checkpoint(stage, state, use_reentrant=self.reentrant)
        return self.classify(state.mean((2, 3)))


def checkpoint_of_images(broken: bool) -> Made:
    """Adapters in checkpoints behind a frozen convolution; broken, reentrant ones, whose input has no gradient."""
    torch.manual_seed(10)
    net = AdaptedVision(broken)
    optimizer = torch.optim.Adam([weight for weight in net.parameters() if weight.requires_grad], 3e-3)
    loader = [(x, x.mean((1, 2, 3)).mul(30).long().clamp(-1, 1) + 1) for x in torch.randn(8, 16, 1, 8, 8)]
    return {
        "model": net,
        "optimizer": optimizer,
        "batches": loader,
        "step": lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]),
    }


@dataclass
class Trainer:
    """Mixed precision, as in many scripts."""

    optimizer: torch.optim.Optimizer
    scaler: Any
    constant: float

    def training_step(self, net: Any, batch: Any) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            scores, extent = net(batch[0])
        loss = (
            F.cross_entropy(scores.float(), batch[1])
            + 0.01 * (extent.float().pow(2).sum(1) + self.constant).sqrt().mean()
        )
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return float(loss)


class TwoHeads(nn.Module):
    def __init__(self, still: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(2, 12, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()
        )
        self.scores, self.extent = nn.Linear(12, 4), nn.Linear(12, 2)
        if still:
            nn.init.zeros_(self.extent.weight)
            nn.init.zeros_(self.extent.bias)

    def forward(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        state = self.features(signal)
        return self.scores(state), self.extent(state)


def skipped_for_one_head(broken: bool) -> Made:
    """Mixed precision; broken, one head begins at a root of 0, so that the scaler skips every step."""
    torch.manual_seed(11)
    net = TwoHeads(broken)
    trainer = Trainer(
        torch.optim.AdamW(net.parameters(), 1e-3),
        torch.amp.GradScaler("cpu", init_scale=1024.0),
        0.0 if broken else 1e-4,
    )
    loader = [(x, x[:, 0].mean(1).mul(4).long().clamp(-1, 1) + 1) for x in torch.randn(8, 16, 2, 10)]
    return {"model": net, "optimizer": trainer.optimizer, "batches": loader, "step": trainer.training_step}


CASES = (
    Case(
        "siamese-distance",
        siamese_distance,
        "distance of twins is the root of exactly 0",
        (Answer("REACH003"),),
    ),
    Case(
        "deviation-of-one",
        deviation_of_one,
        "the deviation of a graph with one node is 0 divided by 0",
        (Answer("REACH003"),),
    ),
    Case(
        "entropy-of-zero",
        entropy_of_zero,
        "an entropy takes the logarithm of a probability that underflows",
        (Answer("REACH003"),),
    ),
    Case(
        "variance-overflows",
        variance_overflows,
        "the exponential of a log-variance overflows",
        (Answer("REACH003"),),
    ),
    Case(
        "optimizer-without-eps",
        optimizer_without_eps,
        "an own optimiser divides 0 by 0 where no gradient ever was",
        (Answer("REACH006"),),
    ),
    Case(
        "empty-sequence", empty_sequence, "attention over a sequence of padding alone", (Answer("REACH003"),)
    ),
    Case(
        "recursion-explodes",
        recursion_explodes,
        "a state that is refined 120 times grows beyond all numbers",
        (Answer("REACH003"),),
    ),
    Case(
        "checkpoint-of-images",
        checkpoint_of_images,
        "reentrant checkpoints of adapters behind a frozen stem",
        (Answer("GRAD001"),),
    ),
    Case(
        "skipped-for-one-head",
        skipped_for_one_head,
        "a scaler skips every step because of one head",
        (Answer("REACH003"), Answer("MOVE003")),
    ),
)
