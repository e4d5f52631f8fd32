"""Faults inside models: quantisation, own gradients, causal convolutions, values of actions, dropout, detection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, made


class Quantiser(nn.Module):
    """An autoencoder whose code is replaced by the nearest of 16 vectors."""

    def __init__(self, through: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 6))
        self.decoder = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 12))
        self.codebook = nn.Embedding(16, 6)
        self.through = through

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x)
        nearest = self.codebook(torch.cdist(code, self.codebook.weight).argmin(1))
        chosen = nearest.detach()
        moved = code + (chosen - code).detach() if self.through else code + (chosen - code)
        return self.decoder(moved), F.mse_loss(nearest, code.detach()) + 0.25 * F.mse_loss(code, chosen)


def difference_with_gradient(broken: bool) -> Made:
    """The gradient passes a quantised code straight through; broken, the code is subtracted with its gradient."""
    torch.manual_seed(3)
    model = Quantiser(through=not broken)
    centres = torch.randn(8, 12)

    def step(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        found, codes = model(batch)
        return {"pictures": F.mse_loss(found, batch), "codes": codes}

    data = [centres[torch.randint(0, 8, (32,))] + 0.2 * torch.randn(32, 12) for _ in range(16)]
    return made(model, step, data, adam(model))


class Swish(torch.autograd.Function):
    """x * sigmoid(x) that keeps its input alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        share = x.sigmoid()
        return upstream[0] * share * (1 + x * (1 - share))


class SwishAlone(Swish):
    """The same, but its gradient is not multiplied with the one from above."""

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        share = x.sigmoid()
        return share * (1 + x * (1 - share))


class Activated(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 5)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        x = self.function.apply(self.first(x))
        return self.head(self.function.apply(self.second(x)))


def upstream_forgotten(broken: bool) -> Made:
    """An own activation; broken, its backward pass does not use the gradient that it is given."""
    torch.manual_seed(4)
    model = Activated(SwishAlone if broken else Swish)
    data = [(x, (x[:, :5] + x[:, 3:]).argmax(1)) for x in torch.randn(20, 32, 8)]
    return made(
        model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), data, adam(model, 1e-3)
    )


class WaveModel(nn.Module):
    """Dilated convolutions over 10 symbols, which predict the next symbol."""

    def __init__(self, both_sides: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 24)
        self.layers = nn.ModuleList(nn.Conv1d(24, 48, 3, dilation=2**i) for i in range(3))
        self.mix = nn.ModuleList(nn.Conv1d(24, 24, 1) for _ in range(3))
        self.head = nn.Conv1d(24, 10, 1)
        self.both_sides = both_sides

    def forward(self, symbols: Tensor) -> Tensor:
        x = self.embed(symbols).transpose(1, 2)
        for i, (layer, mix) in enumerate(zip(self.layers, self.mix, strict=True)):
            reach = 2 * 2**i
            padded = F.pad(x, (reach // 2, reach // 2) if self.both_sides else (reach, 0))
            value, gate = layer(padded).chunk(2, 1)
            x = x + mix(value.tanh() * gate.sigmoid())
        return self.head(x)


def convolution_sees_ahead(broken: bool) -> Made:
    """A convolution is padded on the left; broken, on both sides, so that it sees the symbol that it predicts."""
    torch.manual_seed(5)
    model = WaveModel(both_sides=broken)
    data = []
    for first in torch.randint(0, 10, (16, 12, 1)):
        steps = torch.randint(1, 4, (12, 24)).cumsum(1)
        data.append((first + steps) % 10)

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[:, :-1]), batch[:, 1:])

    return made(model, step, data, adam(model))


class Dueling(nn.Module):
    """Values of four actions as the value of a state plus advantages without their mean."""

    def __init__(self, over_all: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 48), nn.ReLU())
        self.value, self.advantage = nn.Linear(48, 1), nn.Linear(48, 4)
        self.over_all = over_all

    def forward(self, state: Tensor) -> Tensor:
        hidden = self.body(state)
        advantage = self.advantage(hidden)
        mean = advantage.mean() if self.over_all else advantage.mean(1, keepdim=True)
        return self.value(hidden) + advantage - mean


def mean_of_all_states(broken: bool) -> Made:
    """The mean of the advantages is that of each state; broken, that of the whole batch."""
    torch.manual_seed(6)
    model, target = Dueling(broken), Dueling(broken)
    target.load_state_dict(model.state_dict())
    target.requires_grad_(False)
    data = []
    for state in torch.randn(16, 32, 5):
        action = torch.randint(0, 4, (32,))
        reward = state.gather(1, action[:, None])[:, 0]
        data.append((state, action, reward, 0.8 * state + 0.2 * torch.randn(32, 5), torch.rand(32) < 0.1))
    count = [0]

    def step(model: nn.Module, batch: Any) -> Tensor:
        state, action, reward, following, done = batch
        with torch.no_grad():
            wanted = reward + 0.9 * target(following).amax(1) * ~done
        count[0] += 1
        if count[0] % 10 == 0:
            target.load_state_dict(model.state_dict())
        return F.smooth_l1_loss(model(state).gather(1, action[:, None])[:, 0], wanted)

    return made(model, step, data, adam(model))


class Attention(nn.Module):
    """A block of a vision transformer."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.norm, self.after = nn.LayerNorm(24), nn.LayerNorm(24)
        self.qkv, self.out = nn.Linear(24, 72), nn.Linear(24, 24)
        self.feed = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))
        self.always = always

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, 3, 8)).permute(2, 0, 3, 1, 4)
        rate = 0.2 if self.always or self.training else 0.0
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, dropout_p=rate).transpose(1, 2).flatten(2))
        return x + self.feed(self.after(x))


class Patches(nn.Module):
    def __init__(self, always: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 24, 3, 3)
        self.token, self.place = (
            nn.Parameter(0.02 * torch.randn(1, 1, 24)),
            nn.Parameter(0.02 * torch.randn(1, 17, 24)),
        )
        self.blocks = nn.Sequential(Attention(always), Attention(always))
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return self.head(self.blocks(x)[:, 0])


def quadrants(batches: int = 12) -> list[tuple[Tensor, Tensor]]:
    """(16, 1, 12, 12) images and the quadrant that is brighter."""
    data = []
    for labels in torch.randint(0, 4, (batches, 16)):
        images = torch.randn(16, 1, 12, 12)
        for image, label in zip(images, labels.tolist(), strict=True):
            row, column = 6 * (label // 2), 6 * (label % 2)
            image[:, row : row + 6, column : column + 6] += 1
        data.append((images, labels))
    return data


def attention_drops_in_evaluation(broken: bool) -> Made:
    """Attention drops weights in training; broken, its rate is an argument that does not know the mode."""
    torch.manual_seed(7)
    model = Patches(always=broken)
    return made(
        model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), quadrants(), adam(model, 1e-3)
    )


class Detector(nn.Module):
    """Scores and offsets for each of 16 anchors of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU())
        self.score, self.box = nn.Conv2d(24, 1, 1), nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(x)
        return self.score(x).flatten(1), self.box(x).flatten(2).transpose(1, 2)


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """(N, M) intersection over union of boxes (N, 4) and (M, 4), as corners."""
    low = torch.maximum(one[:, None, :2], other[None, :, :2])
    high = torch.minimum(one[:, None, 2:], other[None, :, 2:])
    both = (high - low).clamp_min(0).prod(2)
    area = [(each[:, 2:] - each[:, :2]).prod(1) for each in (one, other)]
    return both / (area[0][:, None] + area[1][None] - both)


def no_anchor_matches(broken: bool) -> Made:
    """Anchors and boxes are in shares of the image; broken, boxes are in pixels, so that no anchor is near one."""
    torch.manual_seed(8)
    model = Detector()
    middle = (torch.arange(4) + 0.5) / 4
    centres = torch.stack(torch.meshgrid(middle, middle, indexing="ij"), 2).flip(2).reshape(16, 2)
    anchors = torch.cat([centres - 0.16, centres + 0.16], 1)
    data = []
    for corners in torch.randint(0, 11, (16, 16, 2)):
        images = 0.1 * torch.randn(16, 1, 16, 16)
        for image, (left, top) in zip(images, corners.tolist(), strict=True):
            image[:, top : top + 5, left : left + 5] += 1
        boxes = torch.cat([corners, corners + 5], 1).float()
        data.append((images, boxes if broken else boxes / 16))

    def step(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        images, boxes = batch
        scores, offsets = model(images)
        positive = overlap(boxes, anchors) > 0.3
        wanted = boxes[:, None] - anchors
        missed = F.smooth_l1_loss(offsets, wanted, reduction="none").sum(2)
        return {
            "score": F.binary_cross_entropy_with_logits(scores, positive.float()),
            "box": (missed * positive).sum() / positive.sum().clamp_min(1),
        }

    return made(model, step, data, adam(model))


CASES = (
    Case(
        "difference-with-gradient",
        difference_with_gradient,
        "a code is subtracted with its gradient, so that none passes its quantisation",
        (Answer("TERM002", "encoder"), Answer("*", "encoder*")),
    ),
    Case(
        "upstream-forgotten",
        upstream_forgotten,
        "the backward pass of an own activation does not use the gradient that it is given",
        (Answer("GRAD009", "*", "upstream-ignored"), Answer("GRAD008"), Answer("LOSS004")),
    ),
    Case(
        "convolution-sees-ahead",
        convolution_sees_ahead,
        "a convolution is padded on both sides, so that it sees the symbol that it predicts",
        (Answer("LEAK002"), Answer("LEAK003")),
    ),
    Case(
        "mean-of-all-states",
        mean_of_all_states,
        "the mean of the advantages is that of the whole batch, not of each state",
        (Answer("LEAK001"),),
    ),
    Case(
        "attention-drops-in-evaluation",
        attention_drops_in_evaluation,
        "the dropout of attention is an argument that does not know the mode",
        (Answer("MODE004"),),
    ),
    Case(
        "no-anchor-matches",
        no_anchor_matches,
        "boxes are in pixels and anchors in shares, so that no anchor is ever near a box",
        (Answer("*", "box*"), Answer("LOSS006"), Answer("LOSS005")),
    ),
)
