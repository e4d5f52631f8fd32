"""The negative control: a small healthy model that reads its task from demonstrations.

A task is a permutation of four symbols. The demonstrations show the images of all symbols, the query is a symbol, the
label its image. The model has a pretrained, frozen decoder head, so that every check has something to check.
"""

from __future__ import annotations

import copy
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.own_model.model_under_test import ModelUnderTest, Pretrained, RowBatch

SYMBOLS = 4
"""Number of symbols: few, so that hundreds of steps take a second."""
WIDTH = 32
"""Width of every layer."""
ROWS = 16
"""Rows of a batch."""
FIRST_HELD_OUT = 100_000
"""The first id that is held out."""


class SymbolReader(nn.Module):
    """An encoder of demonstrations, a decoder, and a head."""

    symbols: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2 * SYMBOLS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.decoder = nn.Sequential(nn.Linear(SYMBOLS + SYMBOLS * WIDTH, WIDTH), nn.ReLU())
        self.head = nn.Linear(WIDTH, SYMBOLS)
        self.register_buffer("symbols", torch.arange(SYMBOLS), persistent=False)

    def forward(self, shown: Tensor, images: Tensor, query: Tensor) -> Tensor:
        """Logits (R, S) from the symbols that are shown and their images (R, S, S), and queries (R,)."""
        context = self.encoder(torch.cat([shown, images], dim=-1)).flatten(1)
        given = torch.cat([(query[:, None] == self.symbols).float(), context], dim=-1)
        return self.head(self.decoder(given))


def make_reference(seed: int) -> ModelUnderTest:
    """The adapter of the healthy model."""
    return ModelUnderTest(
        model=SymbolReader(),
        step=lambda model, batch: cross_entropy(
            model(batch["shown"], batch["images"], batch["query"]), batch["label"]
        ),
        batch=lambda index: _batch(ROWS * index),
        held_out=lambda index: _batch(FIRST_HELD_OUT + ROWS * index),
        optimizer=lambda model: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2),
        context_module="encoder",
        context_consumer="decoder",
        demonstrations=("shown", "images"),
        labels="label",
        ids="id",
        sample=lambda id: {key: value[0] for key, value in _batch(int(id), 1).items() if key != "id"},
        sample_losses=lambda model, batch: cross_entropy(
            model(batch["shown"], batch["images"], batch["query"]), batch["label"], reduction="none"
        ),
        predict=_predict,
        evaluate=lambda predictions, answers: (predictions == answers).float().mean().item(),
        pretrained=Pretrained(
            part="head",
            load=_load_head,
            original=_trained_head,
            inputs=lambda: (torch.linspace(-1, 1, 4 * WIDTH).view(4, WIDTH),),
        ),
        frozen=("head",),
    )


REFERENCE = ModelFactory(make_reference, "the healthy reference")


def _load_head(model: nn.Module) -> None:
    head = model.get_submodule("head")
    head.load_state_dict(_trained_head().state_dict())
    head.requires_grad_(False)


def _trained_head() -> nn.Module:
    return copy.deepcopy(_fixed_head())


@cache
def _fixed_head() -> nn.Module:
    head = nn.Linear(WIDTH, SYMBOLS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return head


@torch.no_grad()
def _predict(model: nn.Module, batch: RowBatch) -> Tensor:
    return model(batch["shown"], batch["images"], batch["query"]).argmax(-1)


@cache
def _batch(first: int, rows: int = ROWS) -> RowBatch:
    """The samples ``first`` to ``first + rows - 1``."""
    shown, seen, queries, labels = [], [], [], []
    for id in range(first, first + rows):
        generator = torch.Generator().manual_seed(id)
        images, order = (torch.randperm(SYMBOLS, generator=generator) for _ in range(2))
        query = int(torch.randint(SYMBOLS, (), generator=generator))
        shown.append(one_hot(order, SYMBOLS).float())
        seen.append(one_hot(images[order], SYMBOLS).float())
        queries.append(query)
        labels.append(int(images[query]))
    ids = torch.arange(first, first + rows)
    return {
        "id": ids,
        "shown": torch.stack(shown),
        "images": torch.stack(seen),
        "query": torch.tensor(queries),
        "label": torch.tensor(labels),
    }
