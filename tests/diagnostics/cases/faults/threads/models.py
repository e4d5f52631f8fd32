"""Faults of models: sampling, pooling, heads by name, a vocabulary that grows, a mask, an ensemble."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, made


class Transformed(nn.Module):
    """A spatial transformer: turns and moves an image before it is classified."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.locate = nn.Sequential(nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 6))
        self.classify = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(200, 32), nn.ReLU(), nn.Linear(32, 4)
        )

    def forward(self, image: Tensor) -> Tensor:
        frame = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        places = F.affine_grid(frame + 0.3 * self.locate(image).view(-1, 2, 3), list(image.shape), False)
        return self.classify(F.grid_sample(image, places, self.mode, align_corners=False))


def sampled_at_nearest(broken: bool) -> Made:
    """An image is sampled between its pixels; broken, at the nearest one, which has no gradient for the places."""
    torch.manual_seed(50)
    model = Transformed("nearest" if broken else "bilinear")
    shapes = (torch.rand(4, 5, 5) > 0.5).float()
    data = []
    for kind in torch.randint(0, 4, (16, 24)):
        image = 0.1 * torch.rand(24, 1, 12, 12)
        top, left = torch.randint(0, 8, (2, 24)).tolist()
        for i, (a, b) in enumerate(zip(top, left, strict=True)):
            image[i, 0, a : a + 5, b : b + 5] += shapes[kind[i]]
        data.append((image, kind))

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    return made(model, step, data, adam(model))


class PowerMean(nn.Module):
    """The mean of powers over all places, with a learnt exponent."""

    def __init__(self, least: float | None) -> None:
        super().__init__()
        self.power, self.least = nn.Parameter(torch.tensor(3.0)), least

    def forward(self, maps: Tensor) -> Tensor:
        if self.least is not None:
            maps = maps.clamp(min=self.least)
        return maps.pow(self.power).mean((2, 3)).pow(1 / self.power)


def power_mean_of_zeros(broken: bool) -> Made:
    """A power mean has a lower bound; broken, none, so that a root of 0 meets an image without anything on it."""
    torch.manual_seed(51)
    model = nn.Sequential()
    model.add_module(
        "features", nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU())
    )
    model.add_module("pool", PowerMean(None if broken else 1e-6))
    model.add_module("head", nn.Linear(16, 3))
    data = []
    for i in range(16):
        level = torch.randint(0, 3, (24,))
        image = torch.rand(24, 1, 10, 10) + level[:, None, None, None]
        if i == 6:
            image[3] = 0.0
        data.append((image, level))
    return made(
        model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), data, adam(model, 1e-3)
    )


class Sensors(nn.Module):
    """A trunk with a head for each quantity that is predicted."""

    def __init__(self, names: tuple[str, ...], broken: bool) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(12, 48), nn.GELU(), nn.Linear(48, 48), nn.GELU())
        self.heads = nn.ModuleDict(
            dict.fromkeys(names, nn.Linear(48, 1)) if broken else {name: nn.Linear(48, 1) for name in names}
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.trunk(x)
        return {name: head(hidden)[:, 0] for name, head in self.heads.items()}


def heads_of_fromkeys(broken: bool) -> Made:
    """A head for each name; broken, dict.fromkeys() gives all names the same one."""
    torch.manual_seed(52)
    names = ("heat", "wind", "rain")
    model = Sensors(names, broken)
    data = [
        (x, dict(zip(names, (x[:, :3].sum(1), x[:, 3] * x[:, 4], x[:, 5].abs()), strict=True)))
        for x in torch.randn(16, 32, 12)
    ]

    def step(model: nn.Module, batch: Any) -> Tensor:
        given = model(batch[0])
        return torch.stack([F.mse_loss(given[name], batch[1][name]) for name in given]).sum()

    made_ = made(model, step, data, adam(model))
    return {**made_, "samples": lambda batch: len(batch[0])}


class Speller(nn.Module):
    """A language model whose head and embedding are tied, and whose vocabulary can grow."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(words, 24)
        self.mixer = nn.GRU(24, 24, batch_first=True)
        self.to_words = nn.Linear(24, words, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.2)
        self.to_words.weight = self.tokens.weight

    def grow(self, words: int, tie: bool) -> None:
        old = self.tokens.weight.data
        self.tokens, self.to_words = nn.Embedding(words, 24), nn.Linear(24, words, bias=False)
        self.tokens.weight.data[: len(old)] = old
        self.to_words.weight.data[: len(old)] = old
        if tie:
            self.to_words.weight = self.tokens.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.to_words(self.mixer(self.tokens(words))[0])


def untied_by_growing(broken: bool) -> Made:
    """A vocabulary grows, and head and embedding are tied again; broken, they are not."""
    torch.manual_seed(53)
    model = Speller(20)
    model.grow(24, tie=not broken)
    data = [(first + 5 * torch.arange(10)) % 24 for first in torch.randint(0, 24, (16, 24, 1))]

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    return made(model, step, data, adam(model))


class Melody(nn.Module):
    """A language model with an attention of its own."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.notes, self.places = nn.Embedding(16, 32), nn.Embedding(16, 32)
        self.project, self.merge = nn.Linear(32, 96), nn.Linear(32, 32)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 16)
        seen = torch.tril(torch.ones(16, 16))
        self.register_buffer("mask", seen if broken else seen.bool())

    def forward(self, notes: Tensor) -> Tensor:
        size = notes.shape[1]
        x = self.notes(notes) + self.places(torch.arange(size))
        q, k, v = (each.unflatten(2, (4, 8)).transpose(1, 2) for each in self.project(x).chunk(3, 2))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask[:size, :size])
        return self.head(self.norm(x + self.merge(mixed.transpose(1, 2).flatten(2))))


def mask_is_added(broken: bool) -> Made:
    """A causal mask is boolean; broken, it is of ones and zeros, which are added to the scores."""
    torch.manual_seed(54)
    model = Melody(broken)
    data = list(torch.randint(0, 16, (16, 16, 13)))
    for notes in data:
        notes[:, 2::3] = (notes[:, 0::3][:, :4] + notes[:, 1::3]) % 16

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[:, :-1]).transpose(1, 2), batch[:, 1:])

    return made(model, step, data, adam(model))


class Committee(nn.Module):
    """Five networks that are evaluated at once."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.broken = broken
        self.members = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 1)) for _ in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.broken:
            weights, _ = stack_module_state(self.members)
        else:
            each = [dict(member.named_parameters()) for member in self.members]
            weights = {name: torch.stack([own[name] for own in each]) for name in each[0]}
        first = self.members[0]
        return vmap(lambda own: functional_call(first, own, (x,)))(weights)[..., 0]


def weights_stacked_apart(broken: bool) -> Made:
    """The weights of an ensemble are stacked; broken, by a function that returns new leaves."""
    torch.manual_seed(55)
    model = Committee(broken)
    data = [(x, x[:, 0] * x[:, 1] + x[:, 2]) for x in torch.randn(16, 32, 6)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        given = model(batch[0])
        return F.mse_loss(given, batch[1].expand_as(given))

    return made(model, step, data, adam(model))


CASES = (
    Case(
        "sampled-at-nearest",
        sampled_at_nearest,
        "an image is sampled at the nearest pixel, which has no gradient for the places",
        (Answer("GRAD00[12]", "locate*"), Answer("REACH00[12]", "locate*"), Answer("RESPONSE001", "locate*")),
    ),
    Case(
        "power-mean-of-zeros",
        power_mean_of_zeros,
        "the root of a power mean is that of 0 for an image without anything on it",
        (Answer("REACH003"), Answer("REACH006")),
    ),
    Case(
        "heads-of-fromkeys",
        heads_of_fromkeys,
        "dict.fromkeys() gives all heads the same layer",
        (Answer("SHARE003"),),
    ),
    Case(
        "untied-by-growing",
        untied_by_growing,
        "a vocabulary grows, and head and embedding are tied no longer",
        (Answer("SHARE002"),),
    ),
    Case(
        "mask-is-added",
        mask_is_added,
        "a causal mask of ones and zeros is added to the scores",
        (Answer("LEAK00[23]"),),
    ),
    Case(
        "weights-stacked-apart",
        weights_stacked_apart,
        "the weights of an ensemble are stacked as new leaves, so that its members get no gradient",
        (Answer("GRAD001"), Answer("REACH001"), Answer("REACH005")),
    ),
)
