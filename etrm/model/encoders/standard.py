"""The standard encoder: pooled pairs, read by learned queries.

Shapes: N pairs of all samples, L tokens of a pair, R context rows, K pairs of one row, P context
tokens, D hidden. The constants follow the published ETRM code (bdsaglam/etrm).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etrm.batch import Demos
from etrm.config import ModelConfig
from etrm.model.act import EncoderState
from etrm.model.encoders.base import Encoded, Encoder
from etrm.model.encoders.pairs import PAD, PairEncoder, choose_block_settings
from etrm.model.forward_context import run_network, run_part
from etrm.model.layers import (
    Block,
    CrossAttentionBlock,
    Linear,
    key_mask,
    multi_head,
    rms_norm,
    truncated_normal_,
)


class GridEncoder(PairEncoder):
    """Encode a pair (input grid, output grid) as one vector, pooled over its tokens, or as a vector per token."""

    def __init__(self, config: ModelConfig, side: int) -> None:
        super().__init__(config, side)
        width, encoder = config.hidden_size, config.encoder
        self.pooling = encoder.pooling
        settings = choose_block_settings(config, encoder.norm == "pre")
        self.layers = nn.ModuleList(Block(settings) for _ in range(encoder.layers))
        if self.pooling == "attention":
            self.pool_query = nn.Parameter(truncated_normal_(torch.empty(1, width), 0.02))
            self.pool_q_proj = Linear(width, width)
            self.pool_k_proj = Linear(width, width)
            self.pool_v_proj = Linear(width, width)
            self.pool_o_proj = Linear(width, width)
        elif self.pooling == "weighted":
            self.pool_weight_proj = Linear(width, 1)
        self.pool_proj = Linear(width, width)

    def encode(self, demos: Demos) -> Tensor:
        """Encode all pairs at once as (N, D), or as (N, L, D) if nothing is pooled, padded to the longest."""
        h = self.embed(demos)
        rotation, mask = self.positions(demos.positions), key_mask(demos.valid, h)
        for block in self.layers:
            h = run_network(block, h, rotation, mask)
        return self.pool_proj(h if self.pooling == "none" else self._pool(h, demos.tokens != PAD))

    def _pool(self, h: Tensor, real: Tensor) -> Tensor:
        """(N, L, D) and (N, L) bool of tokens that are not PAD to (N, D)."""
        if self.pooling == "mean":
            weights = real / real.sum(1, keepdim=True).clamp(min=1)
            return torch.einsum("nl,nld->nd", weights.to(h.dtype), h)
        if self.pooling == "weighted":
            scores = self.pool_weight_proj(h).squeeze(-1).masked_fill(~real, -torch.inf)
            return torch.einsum("nl,nld->nd", scores.softmax(dim=1), h)
        query = self.pool_q_proj(self.pool_query).expand(len(h), 1, -1)
        key, value, mask = self.pool_k_proj(h), self.pool_v_proj(h), key_mask(real, h)
        mixed = multi_head(query, key, value, self.num_heads, mask)
        return self.pool_o_proj(mixed.squeeze(1))


class SetEncoder(nn.Module):
    """P learned queries read the set of pair vectors."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        encoder = config.encoder
        self.query_tokens = nn.Parameter(
            truncated_normal_(torch.empty(config.context_tokens, config.hidden_size), 0.02)
        )
        settings = choose_block_settings(config, encoder.norm == "pre")
        self.layers = nn.ModuleList(CrossAttentionBlock(settings) for _ in range(encoder.set_layers))

    def forward(self, pairs: Tensor, mask: Tensor) -> Tensor:
        """Pair vectors (R, K, D) with (R, K) bool of those that exist to (R, P, D)."""
        h, keys = self.query_tokens.expand(len(pairs), -1, -1), key_mask(mask, pairs)
        for layer in self.layers:
            h = run_network(layer, h, pairs, keys)
        return rms_norm(h)


class StandardEncoder(Encoder):
    """Pooled pair vectors, then the set encoder."""

    def __init__(self, config: ModelConfig, side: int) -> None:
        super().__init__()
        self.grid_encoder = GridEncoder(config, side)
        self.set_encoder = SetEncoder(config)

    def read(self, pairs: Tensor, mask: Tensor, carried: EncoderState | None = None) -> Encoded:
        """Sets (R, K, D) with their mask (R, K) to a context."""
        return Encoded(run_part(self.set_encoder, self.set_encoder, pairs, mask))
