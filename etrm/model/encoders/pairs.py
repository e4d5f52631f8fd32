"""The common part of the grid encoders, which encode a demonstration pair as a vector.

Shapes: N pairs of all samples, L tokens of a pair, D hidden.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from etrm.batch import Demos
from etrm.config import ModelConfig
from etrm.model.core import VOCABULARY
from etrm.model.forward_context import has_few_shapes
from etrm.model.layers import BlockSettings, RotaryPositions, TokenEmbedding
from etrm.model.lengths import group_by_length, group_in_few_shapes, split_by_length, split_in_few_shapes

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
        if has_few_shapes():
            groups = group_in_few_shapes(lengths, demos.rows, 2 * self.area, demos.tokens.device)
            demos = _lengthened(demos, groups[0][1])
        else:
            groups = group_by_length(lengths, demos.tokens.device)
        vectors = torch.cat([self.encode(_shortened(demos, rows, length)) for rows, length in groups])
        order = torch.cat([rows for rows, _ in groups])[
            : len(lengths)
        ]  # without pairs that fill the last group
        return vectors[torch.argsort(order)]

    def count_positions(self, demos: Demos) -> int:
        """Count the positions that pairs of known lengths take, padding included."""
        if demos.valid is None or demos.lengths is None:
            return demos.tokens.numel()
        if has_few_shapes():
            groups = split_in_few_shapes(demos.lengths, demos.rows, 2 * self.area)
        else:
            groups = split_by_length(demos.lengths)
        return sum((end - start) * length for start, end, length in groups)

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


def _lengthened(demos: Demos, length: int) -> Demos:
    """Pad pairs to at least ``length`` tokens."""
    more = max(0, length - demos.tokens.shape[1])
    assert demos.valid is not None
    return replace(
        demos,
        tokens=nn.functional.pad(demos.tokens, (0, more), value=PAD),
        positions=nn.functional.pad(demos.positions, (0, more)),
        valid=nn.functional.pad(demos.valid, (0, more)),
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
