"""The building blocks that the core and the encoders share.

Shapes: B batch, L tokens, D hidden, H heads, E = D / H head size.
Constants follow the published TRM code (SamsungSAILMontreal/TinyRecursiveModels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etrm.errors import ArgumentError
from etrm.model.forward_context import cast_input, find_products
from etrm.model.lengths import align

EPS = 1e-5  # the three numbers are those of the published TRM code
ROPE_THETA = 10_000.0  # likewise
_CUT = 2.0  # likewise
# Standard deviation of a unit normal cut at +-2: sqrt(1 - 2c phi(c) / (2 Phi(c) - 1)).
_CUT_STD = math.sqrt(
    1 - 2 * _CUT * math.exp(-_CUT * _CUT / 2) / math.sqrt(2 * math.pi) / math.erf(_CUT / math.sqrt(2))
)


def truncated_normal_(tensor: Tensor, std: float) -> Tensor:
    """Fill with a normal cut at two sigma whose std *after* the cut is ``std``."""
    with torch.no_grad():
        nn.init.trunc_normal_(tensor, mean=0.0, std=1.0, a=-_CUT, b=_CUT)
        return tensor.mul_(std / _CUT_STD)


def rms_norm(x: Tensor) -> Tensor:
    """RMSNorm over the last dimension without a learned scale, computed in float32."""
    return F.rms_norm(x.float(), (x.shape[-1],), eps=EPS).to(x.dtype)


class Linear(nn.Linear):
    """A linear map with truncated-normal weights of std 1/sqrt(fan_in) and a zero bias, if any.

    Args:
        fan_in: the width of the input.
        fan_out: the width of the output.
        bias: whether a bias is added.
        full_precision: whether the product is computed in float32 whatever the precision of the others is.
    """

    def __init__(self, fan_in: int, fan_out: int, bias: bool = False, full_precision: bool = False) -> None:
        super().__init__(fan_in, fan_out, bias=bias)
        self.full_precision = full_precision

    def cast_weight(self) -> Tensor:
        """Return the weight in the precision of products."""
        products = find_products()
        if products is None or self.full_precision:
            return self.weight
        found = products.weights.get(id(self.weight))
        if found is None:
            with torch.enable_grad():  # the first use may be one without gradient, and later ones have it
                found = products.weights[id(self.weight)] = self.weight.to(products.dtype)
        return found

    def forward(self, input: Tensor) -> Tensor:
        """(..., fan_in) to (..., fan_out)."""
        if self.full_precision:
            with torch.autocast(input.device.type, enabled=False):
                return F.linear(input.float(), self.weight, self.bias)
        return F.linear(input, self.cast_weight(), self.bias)

    def reset_parameters(self) -> None:
        truncated_normal_(self.weight, 1.0 / math.sqrt(self.in_features))
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class TokenEmbedding(nn.Module):
    """A table of token vectors with std 1/sqrt(D); callers scale by sqrt(D)."""

    def __init__(self, tokens: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_weight = nn.Parameter(
            truncated_normal_(torch.empty(tokens, hidden_size), 1.0 / math.sqrt(hidden_size))
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(...,) int64 to (..., D)."""
        return F.embedding(tokens, self.embedding_weight)


class SwiGLU(nn.Module):
    """down(silu(gate) * up), gate and up fused with the gate's rows first."""

    def __init__(self, hidden_size: int, expansion: float) -> None:
        super().__init__()
        inner = -(-round(expansion * hidden_size * 2 / 3) // 256) * 256
        self.gate_up_proj = Linear(hidden_size, 2 * inner)
        self.down_proj = Linear(inner, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        # Two products with halves of one weight: splitting the product instead would make the
        # backward pass join two gradients of twice the inner width.
        x = cast_input(x)
        gate, up = self.gate_up_proj.cast_weight().chunk(2)
        return self.down_proj(F.silu(F.linear(x, gate)) * F.linear(x, up))


@dataclass(frozen=True)
class Rotation:
    """Rotary angles of some positions, ready to be applied (RoPE, half rotation, theta 1e4).

    Attributes:
        cos: (B or 1, L, 1, E) float32, whose two halves are equal.
        sin: (B or 1, L, 1, E) float32, whose first half is negative.
    """

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate (B, L, H, E) in float32 and return it in its own dtype.

        The formula is applied to whole heads, because a CPU is slow at operations on halves of 8 numbers.
        """
        wide = x.float()
        other_half = wide.roll(x.shape[-1] // 2, dims=-1)
        return torch.addcmul(wide * self.cos, other_half, self.sin).to(x.dtype)


class RotaryPositions(nn.Module):
    """The table of rotary angles of every position of a canvas."""

    cos: Tensor
    sin: Tensor

    def __init__(self, positions: int, head_size: int) -> None:
        super().__init__()
        rates = 1.0 / ROPE_THETA ** (torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
        angles = torch.outer(torch.arange(positions, dtype=torch.float32), rates)
        cos, sin = angles.cos(), angles.sin()
        # Not persistent: a function of the config, and absent from published checkpoints.
        self.register_buffer("cos", torch.cat((cos, cos), dim=-1), persistent=False)
        self.register_buffer("sin", torch.cat((-sin, sin), dim=-1), persistent=False)

    def forward(self, positions: Tensor) -> Rotation:
        """(B, L) int64 positions to their rotation."""
        return Rotation(self.cos[positions].unsqueeze(2), self.sin[positions].unsqueeze(2))


def key_mask(valid: Tensor | None, x: Tensor) -> Tensor | None:
    """Turn (B, L) bool of existing tokens into a mask over keys (B, 1, 1, L): 0, and -inf where there is none.

    From a mask of bool, :func:`attend` would make this one again for each layer and cycle, in three kernels on a GPU.
    Two more would pad it there if its rows did not begin at multiples of eight.

    Args:
        valid: whether a token exists; None stays None.
        x: any tensor of the network, whose device and precision determine those of the mask.
    """
    if valid is None:
        return None
    length = valid.shape[1]
    absent = F.pad(~valid, (0, align(length) - length))
    mask = torch.zeros_like(absent, dtype=_find_attention_dtype(x)).masked_fill(absent, -torch.inf)
    return mask[:, None, None, :length]


def _find_attention_dtype(x: Tensor) -> torch.dtype:
    """The precision of the arguments of :func:`attend` in a network that computes with ``x``."""
    device = x.device.type
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if casts and device != "cpu":
        return torch.get_autocast_dtype(device)
    return torch.promote_types(x.dtype, torch.float32)


def cast_for_attention(x: Tensor) -> Tensor:
    """Cast queries, keys or values of a lower precision to float32 on a CPU, for :func:`attend`."""
    return x.float() if x.device.type == "cpu" and x.dtype == torch.bfloat16 else x


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention of (B, H, Lq, E) over (B, H, Lk, E), on a CPU in the precision of its arguments.

    Backward through torch's CPU kernel takes several times as long in bfloat16 as in float32 (torch 2.13).
    """
    if query.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class Attention(nn.Module):
    """Non-causal self-attention: fused qkv (all q heads, then k, then v), no biases."""

    def __init__(self, hidden_size: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads, self.qk_norm = num_heads, qk_norm
        self.qkv_proj = Linear(hidden_size, 3 * hidden_size)
        self.o_proj = Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, rotation: Rotation | None, mask: Tensor | None) -> Tensor:
        """(B, L, D) to (B, L, D); ``mask`` is that of :func:`key_mask`."""
        batch, length, hidden = x.shape
        x = cast_input(x)

        def project(weight: Tensor) -> Tensor:
            heads = len(weight) * self.num_heads // hidden
            return cast_for_attention(F.linear(x, weight)).view(batch, length, heads, -1)

        # Queries and keys are one tensor until they are attended with, so each operation is called once for both.
        of_queries_and_keys, of_values = self.qkv_proj.cast_weight().split((2 * hidden, hidden))
        both, value = project(of_queries_and_keys), project(of_values)
        if self.qk_norm:
            both = rms_norm(both)
        if rotation is not None:
            both = rotation(both)
        query, key = both.chunk(2, dim=2)
        mixed = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, hidden))


@dataclass(frozen=True)
class BlockSettings:
    """The settings of a block of attention and SwiGLU.

    Attributes:
        hidden_size, num_heads: the sizes D and H.
        expansion: the expansion factor of the SwiGLU.
        pre_norm: whether the inputs of the sub-layers are normed instead of their outputs.
        layer_scale: the initial factor per channel on the sub-layers' outputs; 0 means no factor.
        qk_norm: whether queries and keys are RMS-normed per head.
    """

    hidden_size: int
    num_heads: int
    expansion: float
    pre_norm: bool = False
    layer_scale: float = 0.0
    qk_norm: bool = False


class Residual(nn.Module):
    """The residual connections of the two sub-layers of a block: post-norm or pre-norm, with layer scale.

    post: h = RMS(h + g f(h));  pre: h = h + g f(RMS(h)). The factor g, one per channel, is
    ``gamma_1`` for the first sub-layer and ``gamma_2`` for the second; absent means 1.
    """

    gamma_1: nn.Parameter | None
    gamma_2: nn.Parameter | None

    def __init__(self, settings: BlockSettings) -> None:
        super().__init__()
        self.pre_norm, start = settings.pre_norm, settings.layer_scale
        for name in ("gamma_1", "gamma_2"):
            scale = nn.Parameter(torch.full((settings.hidden_size,), start)) if start > 0 else None
            self.register_parameter(name, scale)

    def enter(self, h: Tensor) -> Tensor:
        """Return the input of the sub-layer."""
        return rms_norm(h) if self.pre_norm else h

    def leave(self, h: Tensor, change: Tensor, gamma: nn.Parameter | None) -> Tensor:
        """Add the output of the sub-layer to the state."""
        total = h + (change if gamma is None else gamma * change)
        return total if self.pre_norm else rms_norm(total)


class Block(Residual):
    """Self-attention, then SwiGLU."""

    def __init__(self, settings: BlockSettings) -> None:
        super().__init__(settings)
        self.self_attn = Attention(settings.hidden_size, settings.num_heads, settings.qk_norm)
        self.mlp = SwiGLU(settings.hidden_size, settings.expansion)

    def forward(self, h: Tensor, rotation: Rotation | None, mask: Tensor | None) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        h = self.leave(h, self.self_attn(self.enter(h), rotation, mask), self.gamma_1)
        return self.leave(h, self.mlp(self.enter(h)), self.gamma_2)


class MixerBlock(nn.Module):
    """SwiGLU over a fixed number of tokens L instead of attention, then SwiGLU over channels.

    TRM's ``mlp_t``, post-norm. After the first sub-layer the RMS is over the channels of each token,
    as in every other block, or with ``norm_tokens`` over the tokens of each channel, as in the
    published code: two functions of the same weights.
    """

    def __init__(self, tokens: int, hidden_size: int, expansion: float, norm_tokens: bool) -> None:
        super().__init__()
        self.norm_tokens = norm_tokens
        self.mlp_t = SwiGLU(tokens, expansion)
        self.mlp = SwiGLU(hidden_size, expansion)

    def forward(self, h: Tensor, rotation: Rotation | None, mask: Tensor | None) -> Tensor:
        """(B, L, D) to (B, L, D); nothing is rotated, and no token can be masked."""
        if mask is not None:
            raise ArgumentError(
                "model.mlp-leaves-out-tokens",
                "a block that mixes all tokens (mlp_t) cannot leave some of them out",
            )
        turned = h.transpose(1, 2)
        mixed = turned + self.mlp_t(turned)
        h = rms_norm(mixed).transpose(1, 2) if self.norm_tokens else rms_norm(mixed.transpose(1, 2))
        return rms_norm(h + self.mlp(h))


class CrossAttentionBlock(Residual):
    """Queries attend to a masked set, then SwiGLU; in pre-norm only the queries are normed."""

    def __init__(self, settings: BlockSettings) -> None:
        super().__init__(settings)
        self.num_heads, self.qk_norm, width = settings.num_heads, settings.qk_norm, settings.hidden_size
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.o_proj = Linear(width, width)
        self.mlp = SwiGLU(width, settings.expansion)

    def forward(self, h: Tensor, items: Tensor, mask: Tensor | None) -> Tensor:
        """Queries (B, P, D) over items (B, K, D) to (B, P, D)."""
        h = self.leave(h, self._attend(self.enter(h), items, mask), self.gamma_1)
        return self.leave(h, self.mlp(self.enter(h)), self.gamma_2)

    def _attend(self, queries: Tensor, items: Tensor, mask: Tensor | None) -> Tensor:
        mixed = multi_head(
            self.q_proj(queries), self.k_proj(items), self.v_proj(items), self.num_heads, mask, self.qk_norm
        )
        return self.o_proj(mixed)


def multi_head(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, mask: Tensor | None, qk_norm: bool = False
) -> Tensor:
    """Scaled dot-product attention of (B, Lq, D) over (B, Lk, D), split into heads, without positions."""

    def split(x: Tensor) -> Tensor:
        return cast_for_attention(x).view(x.shape[0], x.shape[1], num_heads, -1).transpose(1, 2)

    query, key, value = split(query), split(key), split(value)
    if qk_norm:
        query, key = rms_norm(query), rms_norm(key)
    mixed = attend(query, key, value, mask)
    return mixed.transpose(1, 2).flatten(2)
