"""GPT-2 of `transformers` learns linear functions in context (Garg et al. 2022): an adapter, and faults for it.

`etrm investigate examples/own-models/in_context.py:make_model`, and the same with a name in `FAULTS`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

from etrm.investigation.own_model import ModelUnderTest

SIZE, POINTS, ROWS, WIDTH = 2, 6, 16, 32


class InContext(nn.Module):
    """Reads pairs and a query as tokens; the hidden state of the query is the context of the answer."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {
            "n_embd": WIDTH,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": POINTS + 1,
            "vocab_size": 1,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }
        self.read = nn.Linear(SIZE + 1, WIDTH)
        self.backbone = GPT2Model(GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
        self.head = nn.Linear(WIDTH, 1)

    def embed(self, pairs: Tensor, query: Tensor) -> Tensor:
        asked = torch.cat([query, torch.zeros(len(query), 1)], dim=-1)
        return self.read(torch.cat([pairs, asked[:, None]], dim=1))

    def forward(self, pairs: Tensor, query: Tensor) -> Tensor:
        hidden = self.backbone(inputs_embeds=self.embed(pairs, query)).last_hidden_state
        return self.head(hidden[:, -1]).squeeze(-1)


def sample(id: int) -> dict[str, Tensor]:
    """A task: a weight vector, pairs (x, w x), and a query."""
    generator = torch.Generator().manual_seed(int(id))
    weights, points = (
        torch.randn(SIZE, generator=generator),
        torch.randn(POINTS + 1, SIZE, generator=generator),
    )
    answers = points @ weights
    return {
        "pairs": torch.cat([points, answers[:, None]], -1)[:-1],
        "query": points[-1],
        "answer": answers[-1],
    }


def batch(index: int, first: int = 0) -> dict[str, Any]:
    ids = first + ROWS * index + torch.arange(ROWS)
    rows = [sample(id) for id in ids.tolist()]
    return {"id": ids} | {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def sample_losses(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    return (model(batch["pairs"], batch["query"]) - batch["answer"]).square()


def make_model(seed: int, kind: type[nn.Module] = InContext) -> ModelUnderTest:
    return ModelUnderTest(
        model=kind(),
        step=lambda model, batch: sample_losses(model, batch).mean(),
        batch=batch,
        held_out=lambda index: batch(index, 10**6),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), 3e-3),
        context_module="backbone",
        context_consumer="head",
        demonstrations=("pairs",),
        labels="answer",
        ids="id",
        sample=sample,
        sample_losses=sample_losses,
        predict=torch.no_grad()(lambda model, batch: model(batch["pairs"], batch["query"])),
        evaluate=lambda predictions, answers: (predictions - answers).square().mean().item(),
        best_score=0.0,
        worst_score=None,
    )


class NoGrad(InContext):
    """The backbone was frozen by no_grad for an evaluation, and stayed so."""

    def forward(self, pairs: Tensor, query: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.backbone(inputs_embeds=self.embed(pairs, query)).last_hidden_state
        return self.head(hidden[:, -1]).squeeze(-1)


class OneTask(InContext):
    """Every row reads the pairs of the first row."""

    def embed(self, pairs: Tensor, query: Tensor) -> Tensor:
        return super().embed(pairs[:1].expand_as(pairs), query)


def backbone_without_grad(seed: int) -> ModelUnderTest:
    return make_model(seed, NoGrad)


def pairs_of_first_row(seed: int) -> ModelUnderTest:
    return make_model(seed, OneTask)


def pairs_of_other_tasks(seed: int) -> ModelUnderTest:
    """The loader pairs each query with the demonstrations of another task."""

    def mixed(index: int) -> dict[str, Any]:
        rows = batch(index)
        return rows | {"pairs": rows["pairs"].roll(1, 0)}

    return replace(make_model(seed), batch=mixed)


def broadcast_error(seed: int) -> ModelUnderTest:
    """Predictions (rows, 1) minus answers (rows,) is a matrix of all pairs of rows."""
    return replace(make_model(seed), evaluate=lambda p, a: (p[:, None] - a).square().mean().item())


FAULTS = {
    "backbone_without_grad": "H2",
    "pairs_of_first_row": "H3",
    "pairs_of_other_tasks": "H5",
    "broadcast_error": "H6",
}
"""The hypothesis that each fault must validate first."""
