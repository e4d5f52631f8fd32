"""Faults of what surrounds a model: ties, parametrisations, accumulation, settings of an optimiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


class Language(nn.Module):
    """A language model whose head shares the weights of its embedding."""

    def __init__(self, wrapped: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 24)
        self.block = nn.TransformerEncoderLayer(24, 2, 48, 0.0, batch_first=True)
        self.head = nn.Linear(24, 20, bias=False)
        nn.init.normal_(self.embed.weight, std=0.1)
        self.head.weight = nn.Parameter(self.embed.weight) if wrapped else self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(words.shape[1])
        return self.head(self.block(self.embed(words), mask, is_causal=True))


def tie_in_a_new_parameter(broken: bool) -> Made:
    """Head and embedding are one parameter; broken, two over one memory, which is updated twice in each step."""
    torch.manual_seed(20)
    model = Language(wrapped=broken)
    data = [(first + 7 * torch.arange(12)) % 20 for first in torch.randint(0, 20, (16, 16, 1))]

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[:, :-1]).transpose(1, 2), batch[:, 1:])

    return made(model, step, data, adam(model))


def parametrised_after_optimizer(broken: bool) -> Made:
    """The optimiser is made after layers got a weight norm; broken, before, so that it has the old weights."""
    torch.manual_seed(21)
    model = classifier()
    optimizer = adam(model)
    for layer in model:
        if isinstance(layer, nn.Linear):
            parametrizations.weight_norm(layer)
    return made(model, loss_of, labelled(), optimizer if broken else adam(model))


def first_part_dropped(broken: bool) -> Made:
    """Gradients of four parts add up; broken, they are cleared behind the first part, not before it."""
    torch.manual_seed(22)
    model = classifier()
    optimizer = adam(model)

    def step(model: nn.Module, batch: Any) -> float:
        total = 0.0
        for i, (x, y) in enumerate(zip(batch[0].chunk(4), batch[1].chunk(4), strict=True)):
            if i == 0 and not broken:
                optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y) / 4
            loss.backward()
            if i % 4 == 0 and broken:
                optimizer.zero_grad()
            if (i + 1) % 4 == 0:
                optimizer.step()
            total += loss.item()
        return total

    return made(model, step, labelled(), optimizer)


def factors_exchanged(broken: bool) -> Made:
    """Adam averages gradients briefly and their squares for long; broken, the other way round."""
    torch.manual_seed(23)
    model = classifier()
    betas = (0.999, 0.9) if broken else (0.9, 0.999)
    return made(model, loss_of, labelled(), torch.optim.AdamW(model.parameters(), 3e-3, betas=betas))


CASES = (
    Case(
        "tie-in-a-new-parameter",
        tie_in_a_new_parameter,
        "head and embedding are two parameters over one memory, which is updated twice in each step",
        (Answer("SHARE*"), Answer("MOVE*", "head*"), Answer("MOVE*", "embed*")),
    ),
    Case(
        "parametrised-after-optimizer",
        parametrised_after_optimizer,
        "layers get a weight norm after the optimiser was made, which has their old weights",
        (Answer("MOVE001"), Answer("REACH008"), Answer("MOVE003")),
    ),
    Case(
        "first-part-dropped",
        first_part_dropped,
        "gradients are cleared behind the first of four parts, not before it",
        (Answer("MOVE004"), Answer("COV*"), Answer("GRAD006")),
    ),
    Case(
        "factors-exchanged",
        factors_exchanged,
        "the two averaging factors of Adam are exchanged",
        (Answer("RATE002"),),
    ),
)
