"""`tiny-recursive-model` from PyPI (lucidrains): the task is to reverse a sequence, with deep supervision.

`etrm audit docs/examples/recursive.py:make_case`, and the same with the name of any other function in `CASES`.
"""

from __future__ import annotations

from typing import Any

import torch
from tiny_recursive_model import MLPMixer1D, TinyRecursiveModel
from torch import Tensor, nn

from diagnostics import Halting, Halts

TOKENS, LENGTH, SAMPLES, SEGMENTS, MOST_STEPS = 8, 10, 32, 3, 12

Batch = tuple[Tensor, Tensor]


def make_case(kind: type[TinyRecursiveModel] = TinyRecursiveModel, **options: float) -> dict[str, Any]:
    """Healthy; by design, all rounds of refinement except the last run under no_grad."""
    torch.manual_seed(0)
    network = MLPMixer1D(dim=32, depth=2, seq_len=LENGTH)
    sizes = {"num_refinement_blocks": 3, "num_latent_refinements": 2}
    model = kind(dim=32, num_tokens=TOKENS, network=network, **sizes, **options)
    return with_rates(model, model.parameters())


def with_rates(model: TinyRecursiveModel, parameters: Any) -> dict[str, Any]:
    """The case of a model of which `parameters` are trained."""
    optimizer = torch.optim.AdamW(parameters, 1e-3)

    def step(model: nn.Module, batch: Batch) -> float:
        """Segments of one batch, an update after each; answer and latent go on without their graph."""
        answer, latent = model.get_initial()
        for _ in range(SEGMENTS):
            loss, _, answer, latent, *_ = model(batch[0], answer, latent, labels=batch[1])
            (loss / SAMPLES).backward()
            optimizer.step()
            optimizer.zero_grad()
        return float(loss.detach() / SAMPLES)

    return {
        "model": model,
        "step": step,
        "batches": batches(),
        "optimizer": optimizer,
        "expect_partial": ["network"],
        "probes": [Halting(halts)],
    }


@torch.no_grad()
def halts(model: TinyRecursiveModel, batch: Batch) -> Halts:
    """Where predictions end, and what the halting head says of the first answers."""
    _, steps = model.predict(batch[0], max_deep_refinement_steps=MOST_STEPS)
    _, _, answer, halt = model(batch[0], *model.get_initial())
    right = (answer.argmax(-1) == batch[1]).all(-1)
    return Halts(steps, MOST_STEPS, torch.logit(halt), right)


def batches(count: int = 25) -> list[Batch]:
    """Tokens (SAMPLES, LENGTH), and the same from behind."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(TOKENS, (count, SAMPLES, LENGTH), generator=generator)
    return [(sequence, sequence.flip(1)) for sequence in tokens]


class InputDetached(TinyRecursiveModel):
    """Its input embedding is computed apart from the graph."""

    def embed_inputs_with_registers(self, seq: Tensor) -> Any:
        """As the model's own, detached."""
        inputs, shape = super().embed_inputs_with_registers(seq)
        return inputs.detach(), shape


class AllWithoutGrad(TinyRecursiveModel):
    """The last round runs under no_grad too: a counter that is off by one."""

    @torch.no_grad()
    def deep_refinement(self, inputs: Tensor, outputs: Tensor, latents: Tensor) -> Any:
        """As the model's own, without gradient."""
        return super().deep_refinement(inputs, outputs, latents)


class TwoLive(TinyRecursiveModel):
    """Only the first two samples keep the graph of their answer."""

    def deep_refinement(self, inputs: Tensor, outputs: Tensor, latents: Tensor) -> Any:
        """As the model's own, the answers of the others detached."""
        outputs, latents = super().deep_refinement(inputs, outputs, latents)
        return torch.cat([outputs[:2], outputs[2:].detach()]), latents


def input_detached() -> dict[str, Any]:
    """The input embedding loses its graph before the first round."""
    return make_case(InputDetached)


def all_without_grad() -> dict[str, Any]:
    """No round of refinement has gradient, but the heads still learn."""
    return make_case(AllWithoutGrad)


def two_of_32_live() -> dict[str, Any]:
    """Answers of 30 of 32 samples are detached before the heads."""
    return make_case(TwoLive)


def halting_head_in_no_group() -> dict[str, Any]:
    """The halting head is missing from the parameter groups."""
    model = make_case()["model"]
    named = [value for name, value in model.named_parameters() if not name.startswith("to_halt_pred")]
    return with_rates(model, named)


def halting_without_loss() -> dict[str, Any]:
    """The loss of the halting head has no weight, so every row gets 0.5, which is enough to halt."""
    return make_case(halt_loss_weight=0.0)


CASES = (
    make_case,
    input_detached,
    all_without_grad,
    two_of_32_live,
    halting_head_in_no_group,
    halting_without_loss,
)
