"""The standard demonstration encoder: every pair to a vector, the set of pairs to a context.

Shapes: N pairs of all samples, L tokens of a pair, R context rows, K pairs of one row, P context
tokens, D hidden. The constants follow the published ETRM code (bdsaglam/etrm).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from etrm.batch import Demos
from etrm.config import ModelConfig
from etrm.model.core import VOCABULARY
from etrm.model.layers import (
    Block,
    CrossAttentionBlock,
    Linear,
    RotaryPositions,
    TokenEmbedding,
    key_mask,
    multi_head,
    rms_norm,
    truncated_normal_,
)

PAD = 0


class GridEncoder(nn.Module):
    """Encode a pair (input grid, output grid) as one vector."""

    def __init__(self, config: ModelConfig, side: int) -> None:
        super().__init__()
        width, encoder = config.hidden_size, config.encoder
        self.area, self.num_heads, self.pooling = side * side, config.num_heads, encoder.pooling
        self.input_embed = TokenEmbedding(VOCABULARY, width)
        self.output_embed = TokenEmbedding(VOCABULARY, width)
        self.layers = nn.ModuleList(
            Block(
                width,
                config.num_heads,
                config.expansion,
                pre_norm=encoder.norm == "pre",
                layer_scale=encoder.layer_scale,
                qk_norm=encoder.qk_norm,
            )
            for _ in range(encoder.layers)
        )
        if self.pooling == "attention":
            self.pool_query = nn.Parameter(truncated_normal_(torch.empty(1, width), 0.02))
            self.pool_q_proj = Linear(width, width)
            self.pool_k_proj = Linear(width, width)
            self.pool_v_proj = Linear(width, width)
            self.pool_o_proj = Linear(width, width)
        elif self.pooling == "weighted":
            self.pool_weight_proj = Linear(width, 1)
        self.pool_proj = Linear(width, width)
        self.positions = RotaryPositions(2 * self.area, width // config.num_heads)

    def forward(self, demos: Demos) -> Tensor:
        """Pairs to (N, D)."""
        if demos.valid is None:
            return self.encode(demos)
        groups = by_length(demos.valid)
        vectors = torch.cat([self.encode(_shortened(demos, rows, length)) for rows, length in groups])
        return vectors[torch.argsort(torch.cat([rows for rows, _ in groups]))]

    def encode(self, demos: Demos) -> Tensor:
        """Pairs to (N, D), all of them in one go, as long as the longest."""
        h = self._embed(demos)
        rotation, mask = self.positions(demos.positions), key_mask(demos.valid)
        for block in self.layers:
            h = block(h, rotation, mask)
        return self.pool_proj(self._pool(h, demos.tokens != PAD))

    def _embed(self, demos: Demos) -> Tensor:
        # One lookup in both tables: the output grid's tokens stand behind the input grid's.
        is_output = demos.positions >= self.area
        table = torch.cat((self.input_embed.embedding_weight, self.output_embed.embedding_weight))
        return math.sqrt(table.shape[1]) * nn.functional.embedding(
            demos.tokens + VOCABULARY * is_output, table
        )

    def _pool(self, h: Tensor, real: Tensor) -> Tensor:
        """(N, L, D) and (N, L) bool of tokens that are not PAD to (N, D)."""
        if self.pooling == "mean":
            weights = real / real.sum(1, keepdim=True).clamp(min=1)
            return torch.einsum("nl,nld->nd", weights.to(h.dtype), h)
        if self.pooling == "weighted":
            scores = self.pool_weight_proj(h).squeeze(-1).masked_fill(~real, -torch.inf)
            return torch.einsum("nl,nld->nd", scores.softmax(dim=1), h)
        query = self.pool_q_proj(self.pool_query).expand(len(h), 1, -1)
        mixed = multi_head(query, self.pool_k_proj(h), self.pool_v_proj(h), self.num_heads, key_mask(real))
        return self.pool_o_proj(mixed.squeeze(1))


class SetEncoder(nn.Module):
    """P learned queries read the set of pair vectors."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        encoder = config.encoder
        self.query_tokens = nn.Parameter(
            truncated_normal_(torch.empty(config.context_tokens, config.hidden_size), 0.02)
        )
        self.layers = nn.ModuleList(
            CrossAttentionBlock(
                config.hidden_size,
                config.num_heads,
                config.expansion,
                pre_norm=encoder.norm == "pre",
                layer_scale=encoder.layer_scale,
                qk_norm=encoder.qk_norm,
            )
            for _ in range(encoder.set_layers)
        )

    def forward(self, pairs: Tensor, mask: Tensor) -> Tensor:
        """Pair vectors (R, K, D) with (R, K) bool of those that exist to (R, P, D)."""
        h = self.query_tokens.expand(len(pairs), -1, -1)
        for layer in self.layers:
            h = layer(h, pairs, key_mask(mask))
        return rms_norm(h)


class StandardEncoder(nn.Module):
    """Demonstrations to a context."""

    def __init__(self, config: ModelConfig, side: int) -> None:
        super().__init__()
        self.grid_encoder = GridEncoder(config, side)
        self.set_encoder = SetEncoder(config)

    def forward(self, demos: Demos) -> Tensor:
        """The demos of R samples to (R, P, D)."""
        return self.set_encoder(*as_sets(self.grid_encoder(demos), demos))


def by_length(valid: Tensor, waste: float = 0.15) -> list[tuple[Tensor, int]]:
    """Rows in groups of similar length, so that little padding is computed.

    Args:
        valid: (N, L) bool, tokens that exist, in front of each row.
        waste: a group ends where more than this share of it would be padding.

    Returns:
        (rows, length) of each group; every row stands in one.
    """
    lengths, order = valid.sum(1).sort(descending=True)
    groups, start = [], 0
    sizes = lengths.tolist()
    for end in range(1, len(sizes) + 1):
        done = end == len(sizes)
        if done or sum(sizes[start : end + 1]) < (1 - waste) * sizes[start] * (end + 1 - start):
            groups.append((order[start:end], sizes[start]))
            start = end
    return groups


def _shortened(demos: Demos, rows: Tensor, length: int) -> Demos:
    assert demos.valid is not None
    return Demos(
        tokens=demos.tokens[rows, :length],
        positions=demos.positions[rows, :length],
        valid=demos.valid[rows, :length],
        owner=demos.owner[rows],
        slots=demos.slots,
    )


def as_sets(pairs: Tensor, demos: Demos) -> tuple[Tensor, Tensor]:
    """Pair vectors (N, D) as padded sets (R, K, D) with their (R, K) mask, by owner."""
    counts = torch.bincount(demos.owner, minlength=demos.rows)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(pairs), device=pairs.device) - first[demos.owner]
    most = int(counts.max())
    sets = pairs.new_zeros(demos.rows, most, pairs.shape[1]).index_put((demos.owner, place), pairs)
    return sets, torch.arange(most, device=pairs.device) < counts[:, None]
