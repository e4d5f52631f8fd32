"""Variations of cut gradients: reads of a value, choices, detached tensors, unused results, saturated units."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.losses import Made


class Masked(nn.Module):
    """A convolutional network whose mask head says which places count."""

    def __init__(self, hard: bool) -> None:
        super().__init__()
        self.hard = hard
        self.trunk = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU())
        self.mask_head = nn.Conv2d(12, 1, 1)
        self.classifier = nn.Linear(12, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.trunk(images)
        mask = self.mask_head(maps)
        mask = (mask > 0).float() if self.hard else mask.sigmoid()
        return self.classifier((maps * mask).mean((2, 3)))


def images_of_colour(batches: int = 8) -> list[dict[str, Tensor]]:
    found = []
    for labels in torch.randint(0, 3, (batches, 20)):
        images = 0.5 * torch.randn(20, 3, 6, 6)
        images[torch.arange(20), labels] += 0.8
        found.append({"image": images, "label": labels})
    return found


def count(batch: dict[str, Tensor]) -> int:
    return len(batch["label"])


def mask_compared(broken: bool) -> Made:
    """Places of an image are weighted; broken, by a comparison, which has no gradient."""
    torch.manual_seed(20)
    net = Masked(broken)

    def step(net: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(net(batch["image"]), batch["label"])}

    return {
        "model": net,
        "optimizer": torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, nesterov=True),
        "batches": images_of_colour(),
        "step": lambda net, batch: step(net, batch)["loss"],
        "samples": count,
    }


class TwoStage(nn.Module):
    """A transformer writes a plan of tokens; a second one reads it."""

    def __init__(self, soft: bool) -> None:
        super().__init__()
        self.soft = soft
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
        self.words = nn.Embedding(12, 16)
        self.planner = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.plan = nn.Linear(16, 12)
        self.solver = nn.GRU(16, 16, batch_first=True)
        self.answer = nn.Linear(16, 5)

    def forward(self, ids: Tensor) -> Tensor:
        scores = self.plan(self.planner(self.words(ids)))
        read = (
            F.gumbel_softmax(scores, hard=True) @ self.words.weight
            if self.soft
            else self.words(scores.argmax(-1))
        )
        return self.answer(self.solver(read)[1][-1])


def plan_by_argmax(broken: bool) -> Made:
    """A plan of words is chosen; broken, by argmax, which cuts the planner off."""
    torch.manual_seed(21)
    net = TwoStage(not broken)
    loader = [(ids, ids[:, 0] % 5) for ids in torch.randint(0, 12, (8, 16, 6))]
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)

    def run_epoch_step(net: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"model": net, "optimizer": optimizer, "batches": loader, "step": run_epoch_step}


class Cooled(nn.Module):
    """A graph network whose temperature of attention a small network gives."""

    def __init__(self, read: bool) -> None:
        super().__init__()
        self.read = read
        self.lift = nn.Linear(5, 16)
        self.temperature_net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.send = nn.Linear(16, 16)
        self.out = nn.Linear(16, 3)

    def forward(self, nodes: Tensor) -> Tensor:
        state = torch.tanh(self.lift(nodes))
        temperature = 1 + F.softplus(self.temperature_net(torch.ones(3)).squeeze())
        if self.read:
            temperature = temperature.item()
        weights = (state @ state.transpose(1, 2) / temperature).softmax(-1)
        return self.out((state + weights @ self.send(state)).mean(1))


def temperature_read(broken: bool) -> Made:
    """A network gives the temperature of an attention; broken, through .item()."""
    torch.manual_seed(22)
    net = Cooled(broken)
    loader = [(x, x.mean(1)[:, :3].argmax(1)) for x in torch.randn(8, 24, 7, 5)]
    return {
        "model": net,
        "optimizer": torch.optim.NAdam(net.parameters(), 2e-3),
        "batches": loader,
        "step": lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]),
    }


class Residual(nn.Module):
    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.cut = cut
        self.embed = nn.Conv1d(1, 12, 3, padding=1)
        self.stages = nn.ModuleList(nn.Conv1d(12, 12, 3, padding=2, dilation=2) for _ in range(2))
        self.head = nn.Linear(12, 3)

    def forward(self, wave: Tensor) -> Tensor:
        state = self.embed(wave)
        for stage in self.stages:
            state = state + F.relu(stage(state))
        if self.cut:
            state = state.data
        return self.head(state.amax(-1))


def read_by_data(broken: bool) -> Made:
    """Waves are classified; broken, the head reads .data of the trunk, which has no gradient."""
    torch.manual_seed(23)
    net = Residual(broken)
    time = torch.arange(24.0)
    loader = []
    for labels in torch.randint(0, 3, (8, 16)):
        loader.append(
            (torch.sin(time * (0.3 + 0.5 * labels[:, None]))[:, None] + 0.1 * torch.randn(16, 1, 24), labels)
        )
    return {
        "model": net,
        "optimizer": torch.optim.Adam(net.parameters(), 2e-3),
        "batches": loader,
        "step": lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]),
    }


class Pooled(NamedTuple):
    sequence: Tensor
    pooled: Tensor


class Sentence(nn.Module):
    """A transformer with a pooler; its head reads one of its two outputs."""

    def __init__(self, forgotten: bool) -> None:
        super().__init__()
        self.forgotten = forgotten
        self.tokens, self.places = nn.Embedding(16, 16), nn.Embedding(6, 16)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, 0.1, batch_first=True, activation="gelu")
        self.pooler = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
        self.head = nn.Linear(16, 4)

    def encode(self, ids: Tensor) -> Pooled:
        state = self.layer(self.tokens(ids) + self.places(torch.arange(ids.shape[1])))
        return Pooled(state, self.pooler(state[:, 0]))

    def forward(self, ids: Tensor) -> Tensor:
        output = self.encode(ids)
        return self.head(output[0][:, 0] if self.forgotten else output[1])


def pooler_forgotten(broken: bool) -> Made:
    """A sentence is read through a pooler; broken, the head reads what was before the pooler."""
    torch.manual_seed(24)
    net = Sentence(broken)
    loader = [(ids, ids[:, 0] % 4) for ids in torch.randint(0, 16, (8, 16, 6))]
    return {
        "model": net,
        "optimizer": torch.optim.AdamW(net.parameters(), 1e-3),
        "batches": loader,
        "step": lambda net, batch: F.cross_entropy(net(batch[0]), batch[1], label_smoothing=0.1),
    }


class UNet(nn.Module):
    """Down, a bottom, and up; the bottom's output is overwritten where the names are mixed up."""

    def __init__(self, mixed: bool) -> None:
        super().__init__()
        self.mixed = mixed
        self.down = nn.Conv2d(1, 8, 3, 2, 1)
        self.bottom = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.last = nn.Conv2d(9, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        x1 = F.relu(self.down(image))
        x2 = F.relu(self.bottom(x1))
        x3 = F.relu(self.up(x1 if self.mixed else x2))
        return self.last(torch.cat([x3, image], 1))


def bottom_skipped(broken: bool) -> Made:
    """A U-shaped network; broken, the way up reads the wrong variable, and the bottom is computed for nothing."""
    torch.manual_seed(25)
    net = UNet(broken)
    loader = [(x, F.avg_pool2d(x, 3, 1, 1)) for x in torch.randn(8, 12, 1, 8, 8)]
    return {
        "model": net,
        "optimizer": torch.optim.Adam(net.parameters(), 2e-3),
        "batches": loader,
        "step": lambda net, batch: F.smooth_l1_loss(net(batch[0]), batch[1]),
    }


class Highway(nn.Module):
    def __init__(self, bias: float) -> None:
        super().__init__()
        self.lift = nn.Linear(6, 24)
        self.change, self.gate = nn.Linear(24, 24), nn.Linear(24, 24)
        self.out = nn.Linear(24, 3)
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.tanh(self.lift(x))
        share = torch.sigmoid(self.gate(state))
        return self.out(share * torch.relu(self.change(state)) + (1 - share) * state)


def gate_closed(broken: bool) -> Made:
    """A highway layer; broken, the bias of its gate is -60, so that it is shut for all samples."""
    torch.manual_seed(26)
    net = Highway(-60.0 if broken else -1.0)
    loader = [(x, x[:, :3].abs().argmax(1)) for x in torch.randn(8, 32, 6)]
    return {
        "model": net,
        "optimizer": torch.optim.Adam(net.parameters(), 1e-3),
        "batches": loader,
        "step": lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]),
    }


class LowRank(nn.Module):
    """A frozen layer and a correction of low rank, scaled by alpha / rank."""

    def __init__(self, width: int, integer: bool, rank: int = 8, alpha: int = 4) -> None:
        super().__init__()
        self.base = nn.Linear(width, width)
        self.base.requires_grad_(False)
        self.A, self.B = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.B.weight)
        self.scaling = alpha // rank if integer else alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.B(self.A(x)) * self.scaling


class LowRankClassifier(nn.Module):
    def __init__(self, integer: bool) -> None:
        super().__init__()
        self.first, self.second = LowRank(10, integer), LowRank(10, integer)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.second(F.gelu(self.first(x)))))


def scaled_by_integer(broken: bool) -> Made:
    """Corrections of low rank are scaled by alpha / rank; broken, by alpha // rank, which is 0."""
    torch.manual_seed(27)
    net = LowRankClassifier(broken)
    loader = [(x, x[:, :4].argmax(1)) for x in torch.randn(10, 32, 10)]
    return {
        "model": net,
        "optimizer": torch.optim.Adam([each for each in net.parameters() if each.requires_grad], 3e-3),
        "batches": loader,
        "step": lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]),
    }


class Routed(nn.Module):
    """Experts for tokens, two for each."""

    def __init__(self, weighted: bool) -> None:
        super().__init__()
        self.weighted = weighted
        self.enter = nn.Linear(8, 16)
        self.router = nn.Linear(16, 4)
        self.w1 = nn.Parameter(0.2 * torch.randn(4, 16, 24))
        self.w2 = nn.Parameter(0.2 * torch.randn(4, 24, 16))
        self.leave = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = F.silu(self.enter(x))
        share, chosen = self.router(state).softmax(-1).topk(2, -1)
        every = torch.einsum("bd,edh->beh", state, self.w1).relu()
        every = torch.einsum("beh,ehd->bed", every, self.w2)
        own = every.gather(1, chosen[..., None].expand(-1, -1, 16))
        mixed = (own * share[..., None]).sum(1) if self.weighted else own.mean(1)
        return self.leave(state + mixed)


def experts_unweighted(broken: bool) -> Made:
    """Two experts for each sample; broken, their outputs are averaged without the weights of the router."""
    torch.manual_seed(28)
    net = Routed(not broken)
    loader = [(x, x[:, :3].argmax(1)) for x in torch.randn(10, 32, 8)]
    return {
        "model": net,
        "optimizer": torch.optim.Adam(net.parameters(), 1e-3),
        "batches": loader,
        "step": lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]),
    }


class Remembered(nn.Module):
    """A recursive solver that reads the encoding of each task; encodings may be kept."""

    def __init__(self, kept: bool) -> None:
        super().__init__()
        self.kept = kept
        self.memory: dict[int, Tensor] = {}
        self.encoder = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16))
        self.core = nn.GRUCell(16, 16)
        self.head = nn.Linear(16, 3)

    def context(self, number: int, shown: Tensor) -> Tensor:
        if not self.kept:
            return self.encoder(shown)
        if number not in self.memory:
            self.memory[number] = self.encoder(shown).detach()
        return self.memory[number]

    def forward(self, number: int, shown: Tensor) -> Tensor:
        context = self.context(number, shown)
        state = torch.zeros_like(context)
        for _ in range(3):
            state = self.core(context, state)
        return self.head(state)


def context_kept(broken: bool) -> Made:
    """A solver reads encoded tasks; broken, each encoding is kept, detached, from the first time on."""
    torch.manual_seed(29)
    net = Remembered(broken)
    loader = [(x, number, x[:, :3].argmax(1)) for number, x in enumerate(torch.randn(4, 16, 6))]
    return {
        "model": net,
        "optimizer": torch.optim.Adam(net.parameters(), 3e-3),
        "batches": loader,
        "step": lambda net, batch: F.cross_entropy(net(batch[1], batch[0]), batch[2]),
    }


CASES = (
    Case(
        "mask-compared",
        mask_compared,
        "a mask is a comparison, which has no gradient",
        (Answer("GRAD001", "mask_head"),),
    ),
    Case(
        "plan-by-argmax",
        plan_by_argmax,
        "a plan is chosen by argmax, which cuts the planner off",
        (Answer("GRAD001", "plan*"),),
    ),
    Case(
        "temperature-read",
        temperature_read,
        "a learnt temperature is read by .item()",
        (Answer("GRAD001", "temperature_net*"),),
    ),
    Case("read-by-data", read_by_data, "the head reads .data of the trunk", (Answer("GRAD001"),)),
    Case(
        "pooler-forgotten",
        pooler_forgotten,
        "the head reads what was before the pooler",
        (Answer("*", "pooler*"),),
    ),
    Case(
        "bottom-skipped",
        bottom_skipped,
        "the bottom of a U-shaped network is computed for nothing",
        (Answer("*", "bottom"),),
    ),
    Case(
        "gate-closed",
        gate_closed,
        "the bias of a gate is -60, so that it is shut",
        (Answer("*", "gate"), Answer("*", "change")),
    ),
    Case(
        "scaled-by-integer",
        scaled_by_integer,
        "adapters are scaled by alpha // rank, which is 0",
        (Answer("REACH002", "*", "branch-at-zero"), Answer("RESPONSE002", "*", "factor-zero")),
    ),
    Case(
        "experts-unweighted",
        experts_unweighted,
        "the weights of the router are not multiplied with its experts",
        (Answer("GRAD001", "router"),),
    ),
    Case(
        "context-kept",
        context_kept,
        "encodings are kept, detached, from the first time on",
        (Answer("*", "encoder*"),),
    ),
)
