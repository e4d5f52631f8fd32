"""A small Bert of `transformers`, built from a config: does a sequence hold more small tokens than large ones?

`etrm audit docs/examples/bert.py:make_case`, and the same with the name of any other function in `CASES`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

TOKENS, LENGTH, SAMPLES = 40, 12, 32


def make_case() -> dict[str, Any]:
    """Healthy."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=TOKENS, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    model = BertForSequenceClassification(config)
    model.train()  # transformers hands models over in evaluation mode
    return {
        "model": model,
        "step": loss,
        "batches": batches(),
        "optimizer": torch.optim.AdamW(model.parameters(), 2e-3),
        "watch": ["bert.embeddings", "bert.encoder.layer", "bert.pooler", "classifier"],
    }


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross entropy, as the model computes it."""
    return model(**batch).loss


def batches(count: int = 25) -> list[dict[str, Tensor]]:
    """Token ids (SAMPLES, LENGTH) and one of two labels."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, TOKENS, (count, SAMPLES, LENGTH), generator=generator)  # 0 is padding
    labels = ((ids < TOKENS // 2).sum(-1) > LENGTH // 2).long()
    return [{"input_ids": i, "labels": y} for i, y in zip(ids, labels, strict=True)]


def embeddings_detached() -> dict[str, Any]:
    """Embeddings are looked up before the step and lose their graph."""

    def step(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        embedded = model.bert.embeddings.word_embeddings(batch["input_ids"]).detach()
        return model(inputs_embeds=embedded, labels=batch["labels"]).loss

    return {**make_case(), "step": step}


def layer_without_grad() -> dict[str, Any]:
    """The first layer runs under no_grad."""
    case = make_case()
    layer = case["model"].bert.encoder.layer[0]
    layer.forward = torch.no_grad()(layer.forward)
    return case


def two_of_32_live() -> dict[str, Any]:
    """The first layer's output is detached for all samples but two."""
    case = make_case()
    live = (torch.arange(SAMPLES) < 2)[:, None, None]

    def cut(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.where(live, args[0], args[0].detach()), *args[1:]

    case["model"].bert.encoder.layer[1].register_forward_pre_hook(cut)
    return case


def head_in_no_group() -> dict[str, Any]:
    """The optimiser gets only the parameters of the body."""
    case = make_case()
    return {**case, "optimizer": torch.optim.AdamW(case["model"].bert.parameters(), 2e-3)}


def rate_zero() -> dict[str, Any]:
    """A warm-up that never leaves 0."""
    case = make_case()
    return {**case, "optimizer": torch.optim.AdamW(case["model"].parameters(), 0.0)}


CASES = (make_case, embeddings_detached, layer_without_grad, two_of_32_live, head_in_no_group, rate_zero)
