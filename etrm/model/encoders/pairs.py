"""The common part of the grid encoders, which encode a demonstration pair as a vector.

Shapes: N pairs of all samples, L tokens of a pair, D hidden.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from etrm.batch import Demos
from etrm.config import ModelConfig
from etrm.model.core import VOCABULARY
from etrm.model.layers import BlockSettings, RotaryPositions, TokenEmbedding
from etrm.model.lengths import group_by_length

PAD = 0  # that of etrm.data.tokens, which models do not import


def choose_block_settings(config: ModelConfig, pre_norm: bool) -> BlockSettings:
    """Return the settings of the blocks of an encoder, with the core's number of heads and expansion."""
    encoder = config.encoder
    return BlockSettings(
        config.hidden_size,
        config.num_heads,
        config.expansion,
        pre_norm,
        encoder.layer_scale,
        encoder.qk_norm,
    )


class PairEncoder(nn.Module):
    """Base of the grid encoders: an embedding per grid, RoPE over both, and real tokens only."""

    def __init__(self, config: ModelConfig, side: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.area, self.num_heads = side * side, config.num_heads
        self.input_embed = TokenEmbedding(VOCABULARY, width)
        self.output_embed = TokenEmbedding(VOCABULARY, width)
        self.positions = RotaryPositions(2 * self.area, width // config.num_heads)

    def forward(self, demos: Demos) -> Tensor:
        """Encode pairs as (N, D)."""
        if demos.valid is None:
            return self.encode(demos)
        lengths = demos.valid.sum(1).tolist() if demos.lengths is None else demos.lengths
        groups = group_by_length(lengths, demos.tokens.device)
        vectors = torch.cat([self.encode(_shortened(demos, rows, length)) for rows, length in groups])
        return vectors[torch.argsort(torch.cat([rows for rows, _ in groups]))]

    def encode(self, demos: Demos) -> Tensor:
        """Encode all pairs at once as (N, D), padded to the longest."""
        raise NotImplementedError

    def embed(self, demos: Demos) -> Tensor:
        """Embed the tokens of the pairs as (N, L, D), times sqrt(D)."""
        # One lookup in both tables: the output grid's tokens follow the input grid's.
        is_output = demos.positions >= self.area
        table = torch.cat((self.input_embed.embedding_weight, self.output_embed.embedding_weight))
        return math.sqrt(table.shape[1]) * nn.functional.embedding(
            demos.tokens + VOCABULARY * is_output, table
        )


def _shortened(demos: Demos, rows: Tensor, length: int) -> Demos:
    assert demos.valid is not None
    return Demos(
        tokens=demos.tokens[rows, :length],
        positions=demos.positions[rows, :length],
        valid=demos.valid[rows, :length],
        owner=demos.owner[rows],
        slots=demos.slots,
    )
