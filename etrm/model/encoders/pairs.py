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
from etrm.model.forward_context import Shapes, find_shapes, run_part
from etrm.model.layers import BlockSettings, RotaryPositions, TokenEmbedding
from etrm.model.lengths import group_pairs, split_pairs

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
    """Base of the grid encoders: an embedding per grid, RoPE over the tokens, and real tokens only.

    In the layout ``cells`` a token t is that of both grids: V times the input's token plus the output's.
    """

    def __init__(self, config: ModelConfig, side: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.area, self.num_heads = side * side, config.num_heads
        self.layout = config.encoder.layout
        self.input_embed = TokenEmbedding(VOCABULARY, width)
        self.output_embed = TokenEmbedding(VOCABULARY, width)
        self.positions = RotaryPositions(2 * self.area, width // config.num_heads)

    def lay_out(self, demos: Demos) -> Demos:
        """Return the pairs with the tokens of the layout, from pairs in sequence."""
        return demos if self.layout == "sequence" else _join_cells(demos, self.area)

    def forward(self, demos: Demos) -> Tensor:
        """Encode laid-out pairs as (N, D), or as (N, L, D) if nothing is pooled."""
        if demos.valid is None:
            return self.encode(demos)
        lengths = demos.valid.sum(1).tolist() if demos.lengths is None else demos.lengths
        longest = demos.tokens.shape[1]
        groups = group_pairs(lengths, find_shapes(), demos.rows, self.most_tokens, demos.tokens.device)
        demos = _lengthened(demos, groups[0][1] if groups else 0)
        found = [_fitted(self._encode_group(demos, rows, length), longest) for rows, length in groups]
        # The first of all rows, because pairs that only fill the last group are behind them.
        order = torch.cat([rows for rows, _ in groups])[: len(lengths)]
        return torch.cat(found)[torch.argsort(order)]

    @property
    def most_tokens(self) -> int:
        """The largest number of tokens of a pair."""
        return self.area if self.layout == "cells" else 2 * self.area

    def count_positions(self, demos: Demos) -> tuple[int, int]:
        """Count the positions that are computed for pairs in sequence, padding included, and the tokens in them.

        Of pairs whose lengths the host does not know, all count as tokens.
        """
        lengths = demos.cells if self.layout == "cells" else demos.lengths
        if demos.valid is None or lengths is None:
            return demos.tokens.numel(), demos.tokens.numel()
        groups = split_pairs(lengths, find_shapes(), demos.rows, self.most_tokens)
        return sum((end - start) * length for start, end, length in groups), sum(lengths)

    def _encode_group(self, demos: Demos, rows: Tensor, length: int) -> Tensor:
        group = _shortened(demos, rows, length)
        if find_shapes() is not Shapes.ONE_GROUP:
            return self.encode(group)

        def encode(tokens: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
            return self.encode(replace(group, tokens=tokens, positions=positions, valid=valid))

        found: Tensor = run_part(self, encode, group.tokens, group.positions, group.valid)
        return found

    def encode(self, demos: Demos) -> Tensor:
        """Encode all pairs at once as (N, D), or as (N, L, D) if nothing is pooled, padded to the longest."""
        raise NotImplementedError

    def embed(self, demos: Demos) -> Tensor:
        """Embed the tokens of laid-out pairs as (N, L, D) with elements of std 1 at the start."""
        if self.layout == "cells":
            given = self.input_embed(demos.tokens // VOCABULARY)
            both = given + self.output_embed(demos.tokens % VOCABULARY)
            return math.sqrt(both.shape[-1] / 2) * both
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


def _join_cells(demos: Demos, area: int) -> Demos:
    """Join the tokens of both grids at each cell: V times the input's plus the output's, PAD where a grid has none.

    The cells of a pair are in the order of the canvas, and their positions are those of the input grid.
    """
    exists = torch.ones_like(demos.tokens, dtype=torch.bool) if demos.valid is None else demos.valid
    place = demos.positions % area
    codes = demos.tokens * torch.where(demos.positions < area, VOCABULARY, 1) * exists
    canvas = demos.tokens.new_zeros(len(demos.tokens), area)
    joined = canvas.scatter_add(1, place, codes)
    present = canvas.scatter_add(1, place, exists.long()) > 0
    counts = present.sum(1)
    lengths = tuple(counts.tolist()) if demos.cells is None else demos.cells
    longest = max(lengths, default=0)
    # Cells that do not exist are written to a last column that is then cut off.
    column = torch.where(present, present.cumsum(1) - 1, longest)
    empty = canvas.new_zeros(len(canvas), longest + 1)
    return replace(
        demos,
        tokens=empty.scatter(1, column, joined)[:, :longest],
        positions=empty.scatter(1, column, torch.arange(area, device=place.device).expand_as(column))[
            :, :longest
        ],
        valid=None if demos.valid is None else torch.arange(longest, device=place.device) < counts[:, None],
        lengths=lengths,
        cells=None,
    )


def _fitted(vectors: Tensor, longest: int) -> Tensor:
    """Fit vectors (N, L, D) of tokens to the longest pair, padded with zeros or cut; (N, D) are not changed."""
    return (
        vectors if vectors.dim() == 2 else nn.functional.pad(vectors, (0, 0, 0, longest - vectors.shape[1]))
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
