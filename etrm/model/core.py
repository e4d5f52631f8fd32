"""The TRM core: one small network applied again and again to two latent states.

Shapes: B batch, P context tokens, S grid tokens, L = P + S, D hidden, V = 12 tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from etrm.config import ModelConfig
from etrm.model.forward_context import run_network
from etrm.model.layers import (
    Block,
    BlockSettings,
    Linear,
    MixerBlock,
    RotaryPositions,
    Rotation,
    TokenEmbedding,
    key_mask,
    truncated_normal_,
)

VOCABULARY = 12
"""PAD, EOS and ten colours."""


class ReasoningModule(nn.Module):
    """f(h, u): the blocks applied to h + u. One module serves both levels."""

    def __init__(self, config: ModelConfig, tokens: int) -> None:
        super().__init__()
        width, expansion = config.hidden_size, config.expansion
        self.layers = nn.ModuleList(
            MixerBlock(tokens, width, expansion, config.mlp_t_norm == "tokens")
            if config.mlp_t
            else Block(BlockSettings(width, config.num_heads, expansion, qk_norm=config.qk_norm))
            for _ in range(config.layers)
        )

    def forward(
        self, state: Tensor, injected: Tensor, rotation: Rotation | None, mask: Tensor | None
    ) -> Tensor:
        """(B, L, D) and (B, L, D) to (B, L, D)."""
        state = state + injected
        for block in self.layers:
            state = block(state, rotation, mask)
        return state


class Core(nn.Module):
    """One ACT step of the Tiny Recursive Model (Jolicoeur-Martineau, 2025), given a context.

    Args:
        config: the settings of the model.
        side: the side of the canvas, so that every position has its rotary angle.
    """

    H_init: Tensor
    L_init: Tensor

    def __init__(self, config: ModelConfig, side: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.H_cycles, self.L_cycles = config.H_cycles, config.L_cycles
        self.context_tokens = config.context_tokens
        self.num_heads = config.num_heads
        self.embed_tokens = TokenEmbedding(VOCABULARY, width)
        places = config.context_tokens + side * side
        self.L_level = ReasoningModule(config, places)
        self.lm_head = Linear(width, VOCABULARY)
        self.q_head = Linear(width, 2, bias=True, full_precision=True)
        with torch.no_grad():  # the published initialisation: halting is unlikely in every state
            self.q_head.weight.zero_()
            self.q_head.bias.fill_(-5.0)
        self.register_buffer("H_init", truncated_normal_(torch.empty(width), 1.0))
        self.register_buffer("L_init", truncated_normal_(torch.empty(width), 1.0))
        rotary, learned = config.positions == "rope" and not config.mlp_t, config.positions == "learned"
        self.positions = RotaryPositions(places, width // config.num_heads) if rotary else None
        self.embed_pos = TokenEmbedding(places, width) if learned else None

    def forward(
        self,
        z_H: Tensor,
        z_L: Tensor,
        context: Tensor,
        inputs: Tensor,
        positions: Tensor,
        valid: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Refine the states once.

        Args:
            z_H, z_L: (B, L, D) latent states.
            context: (B, P, D) the context of the task.
            inputs: (B, S) int64 tokens of the query input.
            positions: (B, S) int64 positions on the canvas, not counting the P context tokens.
            valid: (B, S) bool, whether a token exists, or None if all do.

        Returns:
            z_H, z_L (B, L, D) with the graph of only the last H cycle; logits (B, S, V); q (B, 2)
            float32: index 0 is the halting logit, index 1 gets no loss.
        """
        places = self._with_context(positions)
        x = self._embed(context, inputs, places)
        rotation = None if self.positions is None else self.positions(places)
        mask = None if valid is None else key_mask(self._context_valid(valid), x)
        with torch.no_grad():
            for _ in range(self.H_cycles - 1):
                z_H, z_L = self._cycle(z_H, z_L, x, rotation, mask)
        z_H, z_L = self._cycle(z_H, z_L, x, rotation, mask)
        logits = self.lm_head(z_H[:, self.context_tokens :])
        return z_H, z_L, logits, self.q_head(z_H[:, 0])

    def _embed(self, context: Tensor, inputs: Tensor, places: Tensor) -> Tensor:
        """Context and tokens as (B, L, D), times sqrt(D)."""
        x = torch.cat((context, self.embed_tokens(inputs)), dim=1)
        if self.embed_pos is not None:  # 1/sqrt(2) keeps the variance
            x = math.sqrt(0.5) * (x + self.embed_pos(places))
        return math.sqrt(x.shape[-1]) * x

    def _cycle(
        self, z_H: Tensor, z_L: Tensor, x: Tensor, rotation: Rotation | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        for _ in range(self.L_cycles):
            z_L = run_network(self.L_level, z_L, z_H + x, rotation, mask)
        return run_network(self.L_level, z_H, z_L, rotation, mask), z_L

    def _with_context(self, positions: Tensor) -> Tensor:
        first = torch.arange(self.context_tokens, device=positions.device)
        return torch.cat((first.expand(len(positions), -1), positions + self.context_tokens), dim=1)

    def _context_valid(self, valid: Tensor) -> Tensor:
        return torch.cat((valid.new_ones(len(valid), self.context_tokens), valid), dim=1)
