"""The same layers written in the obvious way; each operation can be replaced by ours.

Written without our modules: plain linear maps and embeddings, products that are computed whole and
split, attention as softmax of a matrix, rotary positions by concatenation, RMSNorm term by term. It
computes what :class:`etrm.model.recursive.RecursiveModel` computes of the published layout with the
standard encoder (post-norm, mean pooling); a test compares the two.

Shapes: B samples, K pairs of each (padded ones too), N = B K, L tokens of a sequence, D hidden, H
heads, E = D / H.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etrm.batch import Batch
from etrm.config import ModelConfig
from etrm.model.core import VOCABULARY
from etrm.model.encoders import PAD
from etrm.model.layers import Rotation, rms_norm
from etrm.model.recursive import RecursiveModel, StepOutput

EPS, THETA = 1e-5, 10_000.0


# -- the obvious ways, and ours -------------------------------------------------------------------


def written_out_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Compute softmax(q k^T / sqrt(E)) v of (N, H, L, E)."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ value


def fused_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Compute the same with torch's kernel, as the published code does."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def rotate_by_concatenation(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (N, L, H, E) by angles (L, 1, E)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rotate_by_roll(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate without halves, as ours does."""
    first, second = sin.chunk(2, dim=-1)
    return Rotation(cos, torch.cat((-first, second), dim=-1))(x)


def norm_by_terms(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + eps)."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)


def split_product(x: Tensor, weight: Tensor, parts: int) -> Sequence[Tensor]:
    """Multiply by the fused weight, then split the product."""
    return F.linear(x, weight).chunk(parts, dim=-1)


def product_with_parts(x: Tensor, weight: Tensor, parts: int) -> Sequence[Tensor]:
    """Multiply by each part of the weight, as ours does."""
    return [F.linear(x, part) for part in weight.chunk(parts)]


@dataclass(frozen=True)
class Ways:
    """The implementation of each operation; the obvious one by default."""

    attend: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor] = written_out_attention
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor] = rotate_by_concatenation
    norm: Callable[[Tensor], Tensor] = norm_by_terms
    project: Callable[[Tensor, Tensor, int], Sequence[Tensor]] = split_product


LADDER: tuple[tuple[str, Ways], ...] = (
    ("the obvious way", Ways()),
    ("+ fused attention: the published code's way", Ways(fused_attention)),
    ("+ products with parts of a fused weight", Ways(fused_attention, project=product_with_parts)),
    ("+ rotation of whole heads", Ways(fused_attention, rotate_by_roll, project=product_with_parts)),
    ("+ RMSNorm in one operation", Ways(fused_attention, rotate_by_roll, rms_norm, product_with_parts)),
)
"""Each rung replaces one more operation by ours."""


# -- the layers -----------------------------------------------------------------------------------


class PlainSwiGLU(nn.Module):
    """down(silu(gate) * up)."""

    def __init__(self, width: int, expansion: float, ways: Ways) -> None:
        super().__init__()
        inner = -(-round(expansion * width * 2 / 3) // 256) * 256
        self.gate_up_proj = nn.Linear(width, 2 * inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)
        self.ways = ways

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        gate, up = self.ways.project(x, self.gate_up_proj.weight, 2)
        return self.down_proj(F.silu(gate) * up)


class PlainAttention(nn.Module):
    """Self-attention with rotary positions."""

    def __init__(self, width: int, heads: int, ways: Ways) -> None:
        super().__init__()
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.heads, self.ways = heads, ways

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(N, L, D) to (N, L, D)."""
        parts = self.ways.project(x, self.qkv_proj.weight, 3)
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in parts)
        query, key = self.ways.rotate(query, cos, sin), self.ways.rotate(key, cos, sin)
        mixed = self.ways.attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), None)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class PlainBlock(nn.Module):
    """Post-norm: attention, then SwiGLU."""

    def __init__(self, config: ModelConfig, ways: Ways) -> None:
        super().__init__()
        self.self_attn = PlainAttention(config.hidden_size, config.num_heads, ways)
        self.mlp = PlainSwiGLU(config.hidden_size, config.expansion, ways)
        self.norm = ways.norm

    def forward(self, h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(N, L, D) to (N, L, D)."""
        h = self.norm(h + self.self_attn(h, cos, sin))
        return self.norm(h + self.mlp(h))


class PlainBlocks(nn.Module):
    """A stack of blocks over sequences of a fixed length."""

    def __init__(self, config: ModelConfig, layers: int, length: int, ways: Ways) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PlainBlock(config, ways) for _ in range(layers))
        size = config.hidden_size // config.num_heads
        angles = torch.outer(torch.arange(length), THETA ** -(torch.arange(0, size, 2) / size))
        both = torch.cat((angles, angles), dim=-1).unsqueeze(1)
        self.register_buffer("cos", both.cos(), persistent=False)
        self.register_buffer("sin", both.sin(), persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        """(N, L, D) to (N, L, D)."""
        for block in self.layers:
            h = block(h, self.get_buffer("cos"), self.get_buffer("sin"))
        return h


class PlainGridEncoder(PlainBlocks):
    """A pair to a vector: two embeddings, blocks, the mean of what is not PAD, a linear map."""

    def __init__(self, config: ModelConfig, side: int, ways: Ways) -> None:
        super().__init__(config, config.encoder.layers, 2 * side * side, ways)
        self.input_embed = nn.Embedding(VOCABULARY, config.hidden_size)
        self.output_embed = nn.Embedding(VOCABULARY, config.hidden_size)
        self.pool_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L) tokens of both grids to (N, D)."""
        first, second = tokens.chunk(2, dim=1)
        h = torch.cat((self.input_embed(first), self.output_embed(second)), dim=1)
        h = super().forward(h * math.sqrt(h.shape[-1]))
        real = (tokens != PAD).unsqueeze(-1).to(h.dtype)
        return self.pool_proj((h * real).sum(1) / real.sum(1).clamp(min=1))


class PlainCrossAttention(nn.Module):
    """Post-norm: queries attend to pair vectors, then SwiGLU."""

    def __init__(self, config: ModelConfig, ways: Ways) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(config.hidden_size, config.hidden_size, bias=False) for _ in range(4)
        )
        self.mlp = PlainSwiGLU(config.hidden_size, config.expansion, ways)
        self.heads, self.ways = config.num_heads, ways

    def forward(self, h: Tensor, pairs: Tensor, mask: Tensor) -> Tensor:
        """Queries (B, P, D), pairs (B, K, D) and their mask (B, 1, 1, K) to (B, P, D)."""
        query, key, value = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (self.q_proj(h), self.k_proj(pairs), self.v_proj(pairs))
        )
        mixed = self.ways.attend(query, key, value, mask)
        h = self.ways.norm(h + self.o_proj(mixed.transpose(1, 2).flatten(2)))
        return self.ways.norm(h + self.mlp(h))


class PlainSetEncoder(nn.Module):
    """Learned queries read the pair vectors."""

    def __init__(self, config: ModelConfig, ways: Ways) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.empty(config.context_tokens, config.hidden_size))
        self.layers = nn.ModuleList(
            PlainCrossAttention(config, ways) for _ in range(config.encoder.set_layers)
        )
        self.norm = ways.norm

    def forward(self, pairs: Tensor, mask: Tensor) -> Tensor:
        """(B, K, D) and (B, 1, 1, K) to (B, P, D)."""
        h = self.query_tokens.expand(len(pairs), -1, -1)
        for layer in self.layers:
            h = layer(h, pairs, mask)
        return self.norm(h)


class PlainCore(nn.Module):
    """One ACT step of rows that begin."""

    def __init__(self, config: ModelConfig, side: int, ways: Ways) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.embed_tokens = nn.Embedding(VOCABULARY, width)
        self.L_level = PlainBlocks(config, config.layers, config.context_tokens + side * side, ways)
        self.lm_head = nn.Linear(width, VOCABULARY, bias=False)
        self.q_head = nn.Linear(width, 2)
        self.register_buffer("H_init", torch.empty(width))
        self.register_buffer("L_init", torch.empty(width))

    def forward(self, context: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P, D) and (B, S) to logits (B, S, 12) and q (B, 2)."""
        x = torch.cat((context, self.embed_tokens(inputs)), dim=1) * math.sqrt(context.shape[-1])
        z_H, z_L = (self.get_buffer(name).expand_as(x) for name in ("H_init", "L_init"))
        with torch.no_grad():
            for _ in range(self.config.H_cycles - 1):
                z_H, z_L = self._cycle(z_H, z_L, x)
        z_H, _ = self._cycle(z_H, z_L, x)
        return self.lm_head(z_H[:, self.config.context_tokens :]), self.q_head(z_H[:, 0])

    def _cycle(self, z_H: Tensor, z_L: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(self.config.L_cycles):
            z_L = self.L_level(z_L + z_H + x)
        return self.L_level(z_H + z_L), z_L


class PlainModel(nn.Module):
    """ETRM with the standard encoder on the whole canvas, all K pairs of a sample encoded."""

    def __init__(self, config: ModelConfig, side: int, ways: Ways) -> None:
        super().__init__()
        self.core = PlainCore(config, side, ways)
        self.encoder = nn.ModuleDict(
            {
                "grid_encoder": PlainGridEncoder(config, side, ways),
                "set_encoder": PlainSetEncoder(config, ways),
            }
        )

    def forward(self, batch: Batch) -> StepOutput:
        """One ACT step of rows that begin."""
        tokens = batch.demos.tokens
        pairs = self.encoder["grid_encoder"](tokens).unflatten(0, (batch.size, -1))
        real = (tokens != PAD).any(1).view(batch.size, 1, 1, -1)
        context = self.encoder["set_encoder"](pairs, real)
        logits, q = self.core(context, batch.inputs)
        return StepOutput(logits, q[:, 0], context)


def plain_copy(model: RecursiveModel, side: int, ways: Ways) -> PlainModel:
    """Build a plain model with the weights of ours, on its device."""
    plain = PlainModel(model.config, side, ways)
    plain.load_state_dict(
        {name.replace("embedding_weight", "weight"): value for name, value in model.state_dict().items()}
    )
    return plain.to(model.core.H_init.device)
