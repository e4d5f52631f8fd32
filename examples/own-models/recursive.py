"""`tiny-recursive-model` of PyPI (lucidrains) reverses a sequence: an adapter, and faults for it.

`etrm investigate examples/own-models/recursive.py:make_model`, and the same with a name in `FAULTS`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from tiny_recursive_model import MLPMixer1D, TinyRecursiveModel
from torch import Tensor

from etrm.investigation.own_model import ModelUnderTest

TOKENS, LENGTH, ROWS, ROUNDS = 6, 6, 16, 2
SEQUENCES = torch.randint(TOKENS, (512, LENGTH), generator=torch.Generator().manual_seed(1))


def batch(index: int, first: int = 0) -> dict[str, Any]:
    ids = first + (ROWS * index + torch.arange(ROWS)) % 256
    return {"id": ids, "input": SEQUENCES[ids], "label": SEQUENCES[ids].flip(1)}


def sample_losses(model: Any, batch: dict[str, Any]) -> Tensor:
    _, (token_losses, halt_losses), *_ = model(batch["input"], *model.get_initial(), labels=batch["label"])
    return token_losses + halt_losses


@torch.no_grad()
def predict(model: Any, batch: dict[str, Any]) -> Tensor:
    answer, latent = model.get_initial()
    for _ in range(ROUNDS):
        answer, latent, logits, _ = model(batch["input"], answer, latent)
    return logits.argmax(-1)


def make_model(seed: int, kind: Any = TinyRecursiveModel) -> ModelUnderTest:
    network = MLPMixer1D(dim=32, depth=2, seq_len=LENGTH)
    return ModelUnderTest(
        model=kind(
            dim=32, num_tokens=TOKENS, network=network, num_refinement_blocks=2, num_latent_refinements=2
        ),
        step=lambda model, batch: sample_losses(model, batch).mean(),
        batch=batch,
        held_out=lambda index: batch(index, 256),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), 3e-3),
        context_module="input_embed",
        context_consumer="network",
        frozen=("output_init_embed", "latent_init_embed"),  # the rounds before the last one have no gradient
        approximate=("input_embed", "network"),
        demonstrations=("input",),
        labels="label",
        ids="id",
        sample_losses=sample_losses,
        predict=predict,
        evaluate=lambda predictions, answers: (predictions == answers).float().mean().item(),
    )


class InputDetached(TinyRecursiveModel):
    """Its input embedding is computed apart from the graph."""

    def embed_inputs_with_registers(self, seq: Tensor) -> Any:
        inputs, shape = super().embed_inputs_with_registers(seq)
        return inputs.detach(), shape


class InputShifted(TinyRecursiveModel):
    """Each row refines the input of the next one."""

    def embed_inputs_with_registers(self, seq: Tensor) -> Any:
        inputs, shape = super().embed_inputs_with_registers(seq)
        return inputs.roll(1, 0), shape


def input_detached(seed: int) -> ModelUnderTest:
    return make_model(seed, InputDetached)


def input_shifted(seed: int) -> ModelUnderTest:
    return make_model(seed, InputShifted)


def labels_shuffled(seed: int) -> ModelUnderTest:
    """The step pairs inputs with the labels of other rows."""

    def step(model: Any, batch: dict[str, Any]) -> Tensor:
        return sample_losses(model, batch | {"label": batch["label"].roll(1, 0)}).mean()

    return replace(make_model(seed), step=step)


def padding_counted(seed: int) -> ModelUnderTest:
    """The score is divided by the size of a full batch, however many rows are evaluated."""
    return replace(make_model(seed), evaluate=lambda p, a: (p == a).float().mean(1).sum().item() / ROWS)


def rate_too_high(seed: int) -> ModelUnderTest:
    return replace(make_model(seed), optimizer=lambda model: torch.optim.AdamW(model.parameters(), 1.0))


FAULTS = {
    "input_detached": "H2",
    "input_shifted": "H3",
    "labels_shuffled": "H5",
    "padding_counted": "H6",
    "rate_too_high": "H4",
}
"""The hypothesis that each fault must validate first."""
