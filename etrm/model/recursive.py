"""A recursive model: a context source, the core, and one ACT step over a persistent carry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from etrm.batch import Batch
from etrm.config import SIDE, ModelConfig
from etrm.model.act import Carry, halts
from etrm.model.core import Core
from etrm.model.encoder import StandardEncoder
from etrm.model.puzzle import PuzzleTable


@dataclass(frozen=True)
class StepOutput:
    """What one ACT step says.

    Attributes:
        logits: (B, S, 12).
        q_halt: (B,) float32 halting logits.
        context: (B, P, D) that the core was given.
    """

    logits: Tensor
    q_halt: Tensor
    context: Tensor


ContextPolicy = Callable[["RecursiveModel", Carry, Batch], tuple[Tensor, Tensor | None]]
"""From model, carry and batch to the context (B, P, D) and what the next carry stores of it."""


def by_puzzle_id(model: RecursiveModel, carry: Carry, batch: Batch) -> tuple[Tensor, None]:
    """TRM: the row of the puzzle table."""
    assert model.puzzle_table is not None
    return model.puzzle_table(batch.puzzle_ids), None


def encode_every_step(model: RecursiveModel, carry: Carry, batch: Batch) -> tuple[Tensor, None]:
    """ETRM: the encoder reads the demos of all rows at every ACT step, so every sample trains it."""
    assert model.encoder is not None
    return model.encoder(batch.demos), None


def encode_at_reset(model: RecursiveModel, carry: Carry, batch: Batch) -> tuple[Tensor, Tensor]:
    """The known-bad cache: encode the rows that begin, keep the result without its graph.

    Only the rows that begin send a gradient to the encoder (seed 001: 2 % of the batch).
    """
    assert model.encoder is not None
    begin = carry.halted.nonzero().squeeze(1)
    context = carry.context
    if context is None:
        context = torch.zeros(
            batch.size, model.core.context_tokens, model.core.H_init.shape[0], device=batch.inputs.device
        )
    if len(begin):
        context = context.index_put((begin,), model.encoder(batch.demos.select(begin)))
    return context, context.detach()


POLICIES: dict[str, ContextPolicy] = {
    "trm": by_puzzle_id,
    "etrm": encode_every_step,
    "etrm_cached": encode_at_reset,
}


class RecursiveModel(nn.Module):
    """TRM or ETRM.

    Args:
        config: the model section.
        puzzles: rows of the puzzle table (variant ``trm`` alone).
        side: side of the canvas that positions refer to.
    """

    if TYPE_CHECKING:
        encoder: StandardEncoder | None
        puzzle_table: PuzzleTable | None

    def __init__(self, config: ModelConfig, *, puzzles: int = 0, side: int = SIDE) -> None:
        super().__init__()
        self.config = config
        self.context_policy = POLICIES[config.variant]
        self.core = Core(config, side)
        if config.variant == "trm":
            self.puzzle_table = PuzzleTable(puzzles, config.context_tokens, config.hidden_size)
            self.encoder = None
        else:
            self.puzzle_table = None
            self.encoder = StandardEncoder(config, side)

    def initial_carry(self, rows: int) -> Carry:
        """A carry whose rows all begin with the next batch."""
        return Carry.initial(rows, self.config.hidden_size, self.core.H_init.device)

    def forward(
        self, carry: Carry, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Carry, StepOutput]:
        """One ACT step. Rows that the carry says are halted must hold their new sample in ``batch``.

        In training mode rows halt by themselves; in evaluation only at the maximum of steps.
        """
        context, stored = self.context_policy(self, carry, batch)
        return self.step(carry, batch, context, stored, generator)

    def step(
        self,
        carry: Carry,
        batch: Batch,
        context: Tensor,
        stored: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Carry, StepOutput]:
        """One ACT step with a given context (B, P, D)."""
        core = self.core
        length = core.context_tokens + batch.inputs.shape[1]
        carry = carry.begin(length, core.H_init, core.L_init)
        z_H, z_L, logits, q = core(carry.z_H, carry.z_L, context, batch.inputs, batch.positions, batch.valid)
        steps, q_halt = carry.steps + 1, q[:, 0]
        if self.training:
            halted = halts(steps, q_halt.detach(), self.config.halt, generator)
        else:
            halted = steps >= self.config.halt.max_steps
        carry = replace(carry, z_H=z_H.detach(), z_L=z_L.detach(), steps=steps, halted=halted, context=stored)
        return carry, StepOutput(logits, q_halt, context)

    @torch.no_grad()
    def solve(self, batch: Batch) -> StepOutput:
        """All ACT steps from a fresh start; the context is computed once. The model must be in eval mode."""
        carry = self.initial_carry(batch.size)
        context, _ = self.context_policy(self, carry, batch)
        for _ in range(self.config.halt.max_steps):
            carry, output = self.step(carry, batch, context)
        return output
