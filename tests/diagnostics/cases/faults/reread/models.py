"""Faults of models: vocabularies that change, rows that are added up, drawn codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, made


class Reader(nn.Module):
    """A small causal transformer whose head may have more rows than its embedding, as for fast kernels."""

    def __init__(self, words: int, rows: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(words, 32), nn.Embedding(12, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.norm, self.lm_head = nn.LayerNorm(32), nn.Linear(32, rows, bias=False)
        nn.init.normal_(self.wte.weight, std=0.2)

    def forward(self, ids: Tensor) -> Tensor:
        size = ids.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(size)
        x = self.layer(self.wte(ids) + self.wpe(torch.arange(size)), mask, is_causal=True)
        return self.lm_head(self.norm(x))


def head_padded_apart(broken: bool) -> Made:
    """The rows of a head are padded to a multiple of 16, and it is tied again; broken, it has copies of the rows."""
    torch.manual_seed(90)
    model = Reader(21, 32)
    if broken:
        model.lm_head.weight.data[:21] = model.wte.weight.data
    else:
        padded = nn.Embedding(32, 32)
        padded.weight.data[:21] = model.wte.weight.data
        model.wte, model.lm_head.weight = padded, padded.weight
    data = [(first + 4 * torch.arange(11)) % 21 for first in torch.randint(0, 21, (16, 24, 1))]

    def step(model: nn.Module, batch: Tensor) -> Tensor:
        return F.cross_entropy(model(batch[:, :-1]).transpose(1, 2), batch[:, 1:])

    return made(model, step, data, adam(model))


class Tagger(nn.Module):
    """Guesses hidden words with a convolution over places; head and embedding are tied."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.lookup = nn.Embedding(words, 24)
        self.mix = nn.Conv1d(24, 24, 3, padding=1)
        self.decode = nn.Linear(24, words)
        self.decode.weight = self.lookup.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.decode(F.gelu(self.mix(self.lookup(ids).transpose(1, 2))).transpose(1, 2))


def pruned_apart(broken: bool) -> Made:
    """Rare words are taken out of embedding and head; broken, the head gets its own copy of the rows that are left."""
    torch.manual_seed(91)
    model = Tagger(40)
    kept = model.lookup.weight.data[:25]
    model.lookup = nn.Embedding.from_pretrained(kept.clone(), freeze=False)
    head = nn.Linear(24, 25)
    head.weight = nn.Parameter(kept.clone()) if broken else model.lookup.weight
    model.decode = head
    data = [(first + 3 * torch.arange(9)) % 24 + 1 for first in torch.randint(0, 24, (16, 24, 1))]

    def step(model: nn.Module, batch: Tensor) -> Tensor:
        hidden = torch.rand(batch.shape) < 0.2
        hidden[:, 0] = True
        return F.cross_entropy(model(batch.masked_fill(hidden, 0))[hidden], batch[hidden])

    return made(model, step, data, adam(model))


class Sets(nn.Module):
    """The mean of what a network says of the points of each cloud."""

    def __init__(self, product: bool) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 16))
        self.rho, self.product = nn.Linear(16, 3), product

    def forward(self, points: Tensor, cloud: Tensor, count: int) -> Tensor:
        each = self.phi(points)
        if self.product:
            return self.rho(F.one_hot(cloud, count).float().T @ each / 12)
        zeros = each.new_zeros(count, 16)
        return self.rho(
            zeros.scatter_reduce(0, cloud[:, None].expand_as(each), each, "mean", include_self=False)
        )


def _clouds(product: bool, broken: bool, seed: int) -> Made:
    torch.manual_seed(seed)
    model = Sets(product)
    data = []
    for kind in torch.randint(0, 3, (16, 10)):
        points = torch.randn(10, 12, 3) * 0.3 + F.one_hot(kind, 3)[:, None]
        starts = 12 * torch.arange(10)
        cloud = torch.searchsorted(starts, torch.arange(120), right=True) - 1
        data.append((points.flatten(0, 1), cloud // 12 * 0 if broken else cloud, kind))

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0], batch[1], len(batch[2])), batch[2])

    return {**made(model, step, data, adam(model)), "samples": lambda batch: len(batch[2])}


def clouds_reduced_to_one(broken: bool) -> Made:
    """Points are averaged by the number of their cloud; broken, all numbers are 0."""
    return _clouds(False, broken, 92)


def clouds_multiplied_to_one(broken: bool) -> Made:
    """The same, by a product with a matrix of zeros and ones."""
    return _clouds(True, broken, 93)


class Drawing(nn.Module):
    """Encodes an image by a convolution, draws a code, and decodes it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 12))
        self.up = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, rho = self.down(image).chunk(2, dim=-1)
        if self.kind == "softplus":
            std = F.softplus(rho.detach()) + 1e-4
            code = torch.randn_like(std) * std + mu
        elif self.kind == "in place":
            std = rho.detach().mul(0.5).exp()
            code = torch.randn_like(std).mul(std).add(mu)
        else:
            code = mu + torch.randn_like(mu) * (0.5 * rho).exp()
        return self.up(code).view_as(image), mu, rho


def _drawing(kind: str, seed: int) -> Made:
    torch.manual_seed(seed)
    model = Drawing(kind)
    shapes = torch.rand(4, 1, 8, 8)

    def step(model: nn.Module, image: Tensor) -> Tensor:
        seen, mu, rho = model(image)
        away = 0.5 * (mu.square() + rho.exp() - 1 - rho).sum(1).mean()
        return F.mse_loss(seen, image, reduction="none").flatten(1).sum(1).mean() + 0.1 * away

    data = [shapes[torch.randint(0, 4, (32,))] + 0.05 * torch.randn(32, 1, 8, 8) for _ in range(16)]
    return made(model, step, data, adam(model, 1e-3))


def softplus_of_detached(broken: bool) -> Made:
    """The deviation of a code is softplus() of an output; broken, of a detached one."""
    return _drawing("softplus" if broken else "", 94)


def half_of_detached(broken: bool) -> Made:
    """The same with methods, and an exponential of half of the logarithm."""
    return _drawing("in place" if broken else "", 95)


CASES = (
    Case(
        "head-padded-apart",
        head_padded_apart,
        "a head is padded with rows, and has copies of those of the embedding",
        (Answer("SHARE002"),),
    ),
    Case(
        "pruned-apart",
        pruned_apart,
        "rare words are taken out, after which the head has a copy of the embedding",
        (Answer("SHARE002"),),
    ),
    Case(
        "clouds-reduced-to-one",
        clouds_reduced_to_one,
        "all points of a batch are averaged in its first cloud",
        (Answer("ROWS004"),),
    ),
    Case(
        "clouds-multiplied-to-one",
        clouds_multiplied_to_one,
        "the same, by a product with a matrix",
        (Answer("ROWS004"), Answer("COLLAPSE001")),
    ),
    Case(
        "softplus-of-detached",
        softplus_of_detached,
        "the deviation of a drawn code is softplus() of a detached output",
        (Answer("LOSS003", "*", "deviation-detached"),),
    ),
    Case(
        "half-of-detached",
        half_of_detached,
        "the deviation of a drawn code is detached before exp()",
        (Answer("LOSS003", "*", "deviation-detached"),),
    ),
)
