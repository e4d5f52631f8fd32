"""The networks as plain functions of their weights, after the formulas of the papers that ``docs/references.md`` lists.

Shapes: B rows, L tokens, D hidden, H heads, E = D / H head size, S query tokens, P context tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from etrm.config import ModelConfig

Weights = Mapping[str, Tensor]
"""Tensors by the names of a model's ``state_dict``."""
EPSILON = 1e-5  # of RMSNorm, as published
THETA = 10_000.0  # base of the rotary angles, as published


@dataclass(frozen=True)
class BlockForm:
    """The settings of a block.

    Attributes:
        heads: the number of attention heads.
        pre_norm: whether inputs of sub-layers are normed instead of sums.
        qk_norm: whether queries and keys are normed per head.
    """

    heads: int
    pre_norm: bool = False
    qk_norm: bool = False


def part(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix such as ``core.lm_head``, by the rest of their names."""
    return {
        name[len(prefix) + 1 :]: value for name, value in weights.items() if name.startswith(f"{prefix}.")
    }


def layers_of(weights: Weights, prefix: str) -> list[dict[str, Tensor]]:
    """The tensors of each layer of a list of layers."""
    count = 1 + max(
        int(name[len(prefix) + 1 :].split(".")[0]) for name in weights if name.startswith(f"{prefix}.")
    )
    return [part(weights, f"{prefix}.{index}") for index in range(count)]


def norm(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension (RMSNorm, without a scale)."""
    return x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt()


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    """x W' + b, without b where there is none."""
    product = x @ weights[f"{name}.weight"].T
    bias = weights.get(f"{name}.bias")
    return product if bias is None else product + bias


def gated(weights: Weights, name: str, x: Tensor) -> Tensor:
    """SwiGLU: down(silu(gate) * up); the rows of the gate come first in the joint weight."""
    joint = x @ weights[f"{name}.gate_up_proj.weight"].T
    gate, up = joint[..., : joint.shape[-1] // 2], joint[..., joint.shape[-1] // 2 :]
    return linear(weights, f"{name}.down_proj", gate * torch.sigmoid(gate) * up)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotate (B, L, H, E) by rotary angles of positions (B, L): element i pairs with element i + E / 2."""
    half = x.shape[-1] // 2
    exponents = torch.arange(half, dtype=torch.float32, device=x.device) * 2 / x.shape[-1]
    angles = (positions.float()[..., None] * THETA**-exponents)[:, :, None, :]
    first, second = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, exists: Tensor | None) -> Tensor:
    """softmax(q k' / sqrt(E)) v for (B, Lq, H, E) and (B, Lk, H, E), keys (B, Lk) bool; joined to (B, Lq, D).

    A row without any key gets zeros.
    """
    mask = None if exists is None else (exists | ~exists.any(1, keepdim=True))[:, None, None, :]
    mixed = scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
    )
    if exists is not None:
        mixed = mixed * exists.any(1)[:, None, None, None]
    return mixed.transpose(1, 2).flatten(2)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, D) to (B, L, H, E)."""
    return x.unflatten(-1, (heads, -1))


def _add(weights: Weights, form: BlockForm, h: Tensor, change: Tensor, scale: str) -> Tensor:
    total = h + change * weights[scale] if scale in weights else h + change
    return total if form.pre_norm else norm(total)


def block(
    weights: Weights, form: BlockForm, h: Tensor, positions: Tensor | None, exists: Tensor | None
) -> Tensor:
    """Self-attention and SwiGLU on (B, L, D), each with a residual connection."""
    given = norm(h) if form.pre_norm else h
    joint = given @ weights["self_attn.qkv_proj.weight"].T
    query, key, value = (split_heads(third, form.heads) for third in joint.tensor_split(3, dim=-1))
    if form.qk_norm:
        query, key = norm(query), norm(key)
    if positions is not None:
        query, key = rotate(query, positions), rotate(key, positions)
    mixed = linear(weights, "self_attn.o_proj", attend(query, key, value, exists))
    h = _add(weights, form, h, mixed, "gamma_1")
    return _add(weights, form, h, gated(weights, "mlp", norm(h) if form.pre_norm else h), "gamma_2")


def cross_block(weights: Weights, form: BlockForm, h: Tensor, items: Tensor, exists: Tensor) -> Tensor:
    """Attention of (B, P, D) over items (B, K, D) that exist (B, K), then SwiGLU; only queries are pre-normed."""
    given = norm(h) if form.pre_norm else h
    query, key, value = (
        split_heads(linear(weights, name, source), form.heads)
        for name, source in (("q_proj", given), ("k_proj", items), ("v_proj", items))
    )
    if form.qk_norm:
        query, key = norm(query), norm(key)
    h = _add(weights, form, h, linear(weights, "o_proj", attend(query, key, value, exists)), "gamma_1")
    return _add(weights, form, h, gated(weights, "mlp", norm(h) if form.pre_norm else h), "gamma_2")


def mixer_block(weights: Weights, tokens_normed: bool, h: Tensor) -> Tensor:
    """A SwiGLU over tokens, then one over channels (TRM's mlp_t); the first norm is over channels, or over tokens."""
    turned = h.transpose(1, 2)
    mixed = turned + gated(weights, "mlp_t", turned)
    h = norm(mixed).transpose(1, 2) if tokens_normed else norm(mixed.transpose(1, 2))
    return norm(h + gated(weights, "mlp", h))


@dataclass(frozen=True)
class CoreResult:
    """What the core computes in one ACT step: states (B, L, D), logits (B, S, V) and q (B, 2)."""

    z_H: Tensor
    z_L: Tensor
    logits: Tensor
    q: Tensor


def core_step(
    weights: Weights,
    model: ModelConfig,
    z_H: Tensor,
    z_L: Tensor,
    context: Tensor,
    inputs: Tensor,
    positions: Tensor,
    valid: Tensor | None,
) -> CoreResult:
    """One ACT step of the TRM core; only the last of the H cycles has a graph.

    Args:
        weights: those of the core.
        model: the settings of the model.
        z_H, z_L: (B, P + S, D) states.
        context: (B, P, D).
        inputs: (B, S) int64 tokens.
        positions: (B, S) int64 places on the canvas.
        valid: (B, S) bool, None if all tokens exist.
    """
    lead = context.shape[1]
    places = torch.cat(
        (torch.arange(lead, device=inputs.device).expand(len(inputs), -1), positions + lead), dim=1
    )
    exists = None
    if valid is not None:
        exists = torch.cat(
            (torch.ones(len(valid), lead, dtype=torch.bool, device=valid.device), valid), dim=1
        )
    x = torch.cat((context, weights["embed_tokens.embedding_weight"][inputs]), dim=1)
    if model.positions == "learned":
        x = (x + weights["embed_pos.embedding_weight"][places]) / math.sqrt(2)
    x = x * math.sqrt(x.shape[-1])
    rotary = places if model.positions == "rope" and not model.mlp_t else None
    network = layers_of(weights, "L_level.layers")
    form = BlockForm(model.num_heads, qk_norm=model.qk_norm)

    def refine(h: Tensor) -> Tensor:
        for layer in network:
            h = (
                mixer_block(layer, model.mlp_t_norm == "tokens", h)
                if model.mlp_t
                else block(layer, form, h, rotary, exists)
            )
        return h

    for cycle in range(model.H_cycles):
        with torch.set_grad_enabled(torch.is_grad_enabled() and cycle == model.H_cycles - 1):
            for _ in range(model.L_cycles):
                z_L = refine(z_L + z_H + x)
            z_H = refine(z_H + z_L)
    return CoreResult(
        z_H, z_L, linear(weights, "lm_head", z_H[:, lead:]), linear(weights, "q_head", z_H[:, 0])
    )
