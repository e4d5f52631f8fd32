"""Faults of generative models: a GAN, diffusion, a VAE, a flow, masked speech."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, made


def slope_of_each_pixel(broken: bool) -> Made:
    """The slope of a critic has norm 1 in each image; broken, in each pixel."""
    torch.manual_seed(100)
    critic = nn.Sequential(nn.Conv2d(1, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(128, 1))
    generator = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.Unflatten(1, (1, 8, 8)))
    model = nn.ModuleDict({"generator": generator, "critic": critic})
    optimizers = [torch.optim.Adam(model[name].parameters(), 1e-3) for name in ("generator", "critic")]
    shades = torch.randn(16, 32, 1, 8, 1).expand(16, 32, 1, 8, 8)

    def step(model: Any, real: Tensor) -> float:
        fake = model["generator"](torch.randn(len(real), 6))
        share = torch.rand(len(real), 1, 1, 1)
        between = (share * real + (1 - share) * fake.detach()).requires_grad_()
        (slope,) = torch.autograd.grad(model["critic"](between).sum(), between, create_graph=True)
        norm = slope.norm(2, dim=1) if broken else slope.flatten(1).norm(2, dim=1)
        optimizers[1].zero_grad()
        distance = model["critic"](real).mean() - model["critic"](fake.detach()).mean()
        (10 * (norm - 1).square().mean() - distance).backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        (-model["critic"](fake).mean()).backward()
        optimizers[0].step()
        return distance.item()

    return made(model, step, list(shades.contiguous()), optimizers)


class Denoiser(nn.Module):
    """Says which noise is in a row of 32 numbers, given the share of noise."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 64))
        self.first, self.last = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor, share: Tensor) -> Tensor:
        return self.last(F.silu(self.first(x) + self.time(share[:, None])))


def noise_by_column(broken: bool) -> Made:
    """Each row has a share of noise; broken, each column has, since there are as many columns as rows."""
    torch.manual_seed(101)
    model = Denoiser()
    kept = torch.linspace(0.99, 0.1, 50)
    data = list(torch.randn(16, 32, 1) + 0.1 * torch.randn(16, 32, 32))

    def step(model: nn.Module, x: Tensor) -> Tensor:
        noise, share = torch.randn_like(x), kept[torch.randint(0, 50, (len(x),))]
        scale = share if broken else share[:, None]
        return F.mse_loss(model(scale.sqrt() * x + (1 - scale).sqrt() * noise, share), noise)

    return made(model, step, data, adam(model))


class Autoencoder(nn.Module):
    """Encodes a row as the mean and the deviation of a code, and decodes a draw of it."""

    def __init__(self, one_draw: bool) -> None:
        super().__init__()
        self.one_draw = one_draw
        self.encoder = nn.Sequential(nn.Linear(16, 64), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(64, 4), nn.Linear(64, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 16))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        draw = torch.randn(4) if self.one_draw else torch.randn_like(mean)
        return self.decoder(mean + draw * (0.5 * log_variance).exp()), mean, log_variance


def one_draw_for_all(broken: bool) -> Made:
    """Each sample has noise of its own; broken, the noise of a batch is one vector."""
    torch.manual_seed(102)
    model = Autoencoder(broken)
    mixing = torch.randn(4, 16)
    data = [torch.randn(32, 4) @ mixing + 0.1 * torch.randn(32, 16) for _ in range(16)]

    def step(model: nn.Module, x: Tensor) -> Tensor:
        output, mean, log_variance = model(x)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return (output - x).square().sum(1).mean() + divergence

    return made(model, step, data, adam(model))


class Normaliser(nn.Module):
    """Shifts and scales features, so that its first batch has mean 0 and deviation 1."""

    ready: Tensor

    def __init__(self, forgets: bool) -> None:
        super().__init__()
        self.forgets = forgets
        self.shift, self.log_scale = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.zeros(6))
        self.register_buffer("ready", torch.tensor(False))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and not self.ready:
            with torch.no_grad():
                self.shift.copy_(-x.mean(0))
                self.log_scale.copy_(-(x.std(0) + 1e-6).log())
                self.ready.fill_(not self.forgets)
        return (x + self.shift) * self.log_scale.exp(), self.log_scale.sum()


class Coupling(nn.Module):
    """Transforms one half of the features by the other, and exchanges the halves."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, changed = x.chunk(2, 1)
        shift, scale = self.net(kept).chunk(2, 1)
        return torch.cat([changed * scale.tanh().exp() + shift, kept], 1), scale.tanh().sum(1)


def normaliser_set_again(broken: bool) -> Made:
    """The first batch sets the normalisers of a flow; broken, each batch does."""
    torch.manual_seed(103)
    model = nn.ModuleList(layer for _ in range(3) for layer in (Normaliser(broken), Coupling()))
    data = [
        torch.stack([x, x * x, *y.unbind(1)], 1)
        for x, y in zip(torch.randn(16, 64), torch.randn(16, 64, 4), strict=True)
    ]

    def step(model: Any, x: Tensor) -> Tensor:
        volume = x.new_zeros(len(x))
        for layer in model:
            x, change = layer(x)
            volume = volume + change
        return (0.5 * x.square().sum(1) - volume).mean()

    return made(model, step, data, adam(model))


def frames_not_hidden(broken: bool) -> Made:
    """A model of speech fills in hidden frames; broken, the frames of the loss are not hidden."""
    torch.manual_seed(104)
    model = nn.Sequential(
        nn.Conv1d(8, 32, 5, padding=2),
        nn.GELU(),
        nn.Conv1d(32, 32, 5, padding=2),
        nn.GELU(),
        nn.Conv1d(32, 8, 1),
    )
    data = [x.cumsum(2) / 4 for x in torch.randn(16, 16, 8, 24)]

    def step(model: nn.Module, x: Tensor) -> Tensor:
        start = torch.randint(0, 18, (len(x), 1))
        place = torch.arange(24)
        hidden = ((place >= start) & (place < start + 6))[:, None].expand_as(x)
        output = model(x if broken else x.masked_fill(hidden, 0))
        return F.mse_loss(output[hidden], x[hidden])

    return made(model, step, data, adam(model))


CASES = (
    Case(
        "slope-of-each-pixel",
        slope_of_each_pixel,
        "a penalty wants slopes of norm 1 for each pixel, not for each image",
        (Answer("LOSS00?"),),
    ),
    Case(
        "noise-by-column",
        noise_by_column,
        "the share of noise is that of the column, not of the sample, since their numbers are equal",
        (Answer("LEAK001"), Answer("ORIGIN001")),
    ),
    Case(
        "one-draw-for-all",
        one_draw_for_all,
        "all samples of a batch get the same noise",
        (Answer("RANDOM00?"), Answer("LEAK001")),
    ),
    Case(
        "normaliser-set-again",
        normaliser_set_again,
        "each batch sets the weights of a layer that its first batch was to set",
        (
            Answer("MOVE00?", "[024]"),
            Answer("RESPONSE003", "[024]", "overwritten-*"),
            Answer("LEAK001", "[024]"),
        ),
    ),
    Case(
        "frames-not-hidden",
        frames_not_hidden,
        "the frames that a model is to fill in are not hidden from it",
        (Answer("LEAK00[23]"),),
    ),
)
