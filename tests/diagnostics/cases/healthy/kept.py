"""Six healthy programs that were written once the rules of `forum` stood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


def noise_from_noise() -> Made:
    """A denoiser learns from a second noisy copy: the clean image is never seen."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv1d(16, 1, 5, padding=2))
    data = []
    for start in 6 * torch.rand(20, 16, 1, 1):
        data.append((torch.sin(start + 0.4 * torch.arange(32.0)),))

    def step(model: nn.Module, batch: Any) -> Tensor:
        one, other = (batch[0] + 0.5 * torch.randn_like(batch[0]) for _ in range(2))
        return F.mse_loss(model(one), other)

    return made(model, step, data, adam(model))


def sampled_weights() -> Made:
    """Langevin dynamics: noise of the size of the rate is added to the weights after each update."""
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, weight_decay=1e-3)

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.003 * torch.randn_like(weight))
        return loss.item()

    return made(model, step, labelled(), optimizer)


class Repeated(nn.Module):
    """One block that is applied six times, and an embedding that is the head too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 24)
        self.block = nn.TransformerEncoderLayer(24, 2, 48, 0.1, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(24)

    def forward(self, tokens: Tensor) -> Tensor:
        state = self.embed(tokens)
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        for _ in range(6):
            state = self.block(state, mask)
        return F.linear(self.norm(state), self.embed.weight)


def repeated_block() -> Made:
    torch.manual_seed(0)
    model = Repeated()
    data = []
    for first in torch.randint(0, 12, (12, 8, 1)):
        data.append(((first + 5 * torch.arange(10)) % 12,))

    def step(model: nn.Module, batch: Any) -> Tensor:
        tokens = batch[0]
        return F.cross_entropy(model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:])

    return made(model, step, data, adam(model, 1e-3))


def pruned() -> Made:
    """The smallest half of the weights is zero: masks are applied again after each update."""
    torch.manual_seed(0)
    model = classifier()
    optimizer = adam(model)
    masks = {}
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            masks[name] = (weight.abs() > weight.abs().median()).float()

    @torch.no_grad()
    def prune() -> None:
        for name, weight in model.named_parameters():
            if name in masks:
                weight.mul_(masks[name])

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        prune()
        return loss.item()

    prune()
    return made(model, step, labelled(), optimizer)


class Filler(nn.Module):
    """Reads tokens in both directions, some of which are hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(14, 24), nn.Linear(48, 14)
        self.read = nn.GRU(24, 24, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.read(self.embed(tokens))[0])


def hidden_tokens() -> Made:
    """Of the chosen tokens eight in ten are hidden, one is another one and one stays as it is."""
    torch.manual_seed(0)
    model = Filler()
    data = []
    for first in torch.randint(0, 12, (20, 16, 1)):
        data.append((1 + (first + 5 * torch.arange(16)) % 12,))

    def step(model: nn.Module, batch: Any) -> Tensor:
        (tokens,) = batch
        chosen, kind = torch.rand(tokens.shape) < 0.25, torch.rand(tokens.shape)
        given = torch.where(chosen & (kind < 0.8), 13, tokens)
        given = torch.where(chosen & (kind > 0.9), torch.randint(1, 13, tokens.shape), given)
        wanted = tokens.masked_fill(~chosen, -100)
        return F.cross_entropy(model(given).transpose(1, 2), wanted)

    return made(model, step, data, adam(model))


def centred_gradients() -> Made:
    """A hook on each matrix subtracts the mean from its gradient."""
    torch.manual_seed(0)
    model = classifier()
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.register_hook(lambda gradient: gradient - gradient.mean(1, keepdim=True))
    return made(model, loss_of, labelled(), adam(model))


PROGRAMS: dict[str, Callable[[], Made]] = {
    "noisy targets": noise_from_noise,
    "weights with noise": sampled_weights,
    "one block, six times": repeated_block,
    "half of the weights are zero": pruned,
    "hidden tokens": hidden_tokens,
    "gradients without their mean": centred_gradients,
}
