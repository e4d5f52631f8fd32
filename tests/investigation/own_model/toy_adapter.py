"""A toy whose label is the sign of a product of a demonstration's number and the query's, with an adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.own_model.model_under_test import ModelUnderTest

ROWS, SAMPLES = 8, 64
GENERATOR = torch.Generator().manual_seed(0)
DEMOS, QUERIES = (torch.randn(2 * SAMPLES, size, generator=GENERATOR) for size in (4, 3))
LABELS = (DEMOS[:, 0] * QUERIES[:, 0] > 0).long() + 2 * (DEMOS[:, 1] > 0).long()


class Toy(nn.Module):
    """An encoder of demonstrations and a decoder; ``pass_on`` is what happens to the context between them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        self.decoder = nn.Linear(8 + 3, 4)

    def pass_on(self, context: Tensor) -> Tensor:
        return context

    def forward(self, demos: Tensor, queries: Tensor) -> Tensor:
        return self.decoder(torch.cat([self.pass_on(self.encoder(demos)), queries], dim=-1))


class ZeroHead(Toy):
    """The last layer starts at zero, so that all answers are equally likely and nothing before it gets a gradient."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.decoder.weight)
        nn.init.zeros_(self.decoder.bias)


def read_samples(index: Tensor) -> dict[str, Any]:
    return {"demos": DEMOS[index], "query": QUERIES[index], "label": LABELS[index], "id": index}


def batch(index: int) -> dict[str, Any]:
    return read_samples((ROWS * index + torch.arange(ROWS)) % SAMPLES)


def losses(model: nn.Module, rows: dict[str, Any]) -> Tensor:
    return cross_entropy(model(rows["demos"], rows["query"]), rows["label"], reduction="none")


def make_toy(seed: int) -> ModelUnderTest:
    return ModelUnderTest(
        model=Toy(),
        step=lambda model, rows: losses(model, rows).mean(),
        batch=batch,
        held_out=lambda index: read_samples(SAMPLES + ROWS * index + torch.arange(ROWS)),
        optimizer=lambda model: torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2),
        context_module="encoder",
        context_consumer="decoder",
        demonstrations=("demos",),
        labels="label",
        ids="id",
        sample=lambda id: {
            key: value[0] for key, value in read_samples(torch.tensor([id])).items() if key != "id"
        },
        sample_losses=losses,
        predict=lambda model, rows: model(rows["demos"], rows["query"]).argmax(-1),
        evaluate=lambda predictions, answers: (predictions == answers).float().mean().item(),
        steps=6,
    )


def factory(**changes: Any) -> ModelFactory:
    """The toy with some fields of its adapter replaced."""
    return ModelFactory(lambda seed: replace(make_toy(seed), **changes), "toy")


def with_model(kind: Callable[[], nn.Module], **changes: Any) -> ModelFactory:
    """The toy with another model, built afresh for every seed."""
    return ModelFactory(lambda seed: replace(make_toy(seed), model=kind(), **changes), "toy")
