"""The weights that a model has, by the settings alone: their names and shapes.

Buffers that are no part of a checkpoint, such as rotary tables, are not listed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

from torch import Tensor

from etrm.config import SIDE, ModelConfig
from etrm.reference.departure import Departure, PipelineStage

Shapes = dict[str, tuple[int, ...]]
VOCABULARY = 12  # padding, end and ten colours
CHUNK = 256  # the inner width of a SwiGLU is a multiple of this
INNER_LAYERS = 2  # of the trm_style encoder, as published
START = "_init"  # how the names of start states end, which are not trained


def compare_shapes(
    weights: Mapping[str, Tensor], parameters: Collection[str], wanted: Mapping[str, tuple[int, ...]]
) -> Iterator[Departure]:
    """Compare the weights of a model with those that it should have.

    Each must be a parameter of its own, but for the start states. Of weights that two names share, only the first name
    is that of a parameter.

    Args:
        weights: the tensors of the model by name.
        parameters: the names of the parameters, each parameter once.
        wanted: the shapes by name.
    """
    stage = PipelineStage.MODEL
    for name, shape in wanted.items():
        real = weights.get(name)
        if real is None or real.shape != shape:
            has = "is missing" if real is None else f"has the shape {tuple(real.shape)}"
            yield Departure(stage, name, 1.0, 0.0, f"{has}, {shape} is expected")
        elif (name in parameters) is name.endswith(START):
            where = "a start state is trained" if name in parameters else "is no parameter of its own"
            yield Departure(stage, name, 1.0, 0.0, where)
    for name in sorted(weights.keys() - wanted.keys()):
        yield Departure(stage, name, 1.0, 0.0, "is not in the model of the settings")


def core_shapes(model: ModelConfig) -> Shapes:
    """The weights of the core."""
    width, places = model.hidden_size, model.context_tokens + SIDE * SIDE
    found: Shapes = {"embed_tokens.embedding_weight": (VOCABULARY, width)}
    for index in range(model.layers):
        if model.mlp_t:
            layer = _below("mlp_t", _gated(places, model)) | _below("mlp", _gated(width, model))
        else:
            layer = _block(model, scaled=False)
        found |= _below(f"L_level.layers.{index}", layer)
    found |= {"lm_head.weight": (VOCABULARY, width), "q_head.weight": (2, width), "q_head.bias": (2,)}
    found |= {"H_init": (width,), "L_init": (width,)}
    if model.positions == "learned":
        found["embed_pos.embedding_weight"] = (places, width)
    return _below("core", found)


def context_shapes(model: ModelConfig, puzzles: int) -> Shapes:
    """The weights that make the context: those of an encoder of this package, or of a table of puzzle ids.

    Args:
        model: the settings of the model.
        puzzles: the number of rows of the table.
    """
    if not model.has_encoder:
        return {"puzzle_table.weights": (puzzles, model.hidden_size)}
    found = _below("grid_encoder", _grid_encoder(model))
    kind, width, tokens = model.encoder.kind, model.hidden_size, model.context_tokens
    latent = model.encoder.latent_size or width
    if kind in ("standard", "hybrid_standard", "hybrid_variational"):
        found["set_encoder.query_tokens"] = (tokens, width)
        for index in range(model.encoder.set_layers):
            found |= _below(f"set_encoder.layers.{index}", _cross_block(model))
    if kind == "lpn_standard":
        found["output_proj.weight"] = (tokens * width, width)
    if kind in ("lpn_variational", "hybrid_variational"):
        for name in ("latent.mu_proj", "latent.logvar_proj"):
            found |= {f"{name}.weight": (latent, width), f"{name}.bias": (latent,)}
        found["output_proj.weight"] = (tokens * width, latent)
    if kind == "recurrent":
        found |= {"z_init": (tokens, width), **_below("cross_attention", _cross_block(model))}
    if kind == "trm_style":
        found |= {"z_H_init": (tokens, width), "z_L_init": (tokens, width)}
        for index in range(INNER_LAYERS):
            found |= _below(f"layers.{index}", _block(model, scaled=True))
    return _below("encoder", found)


def _grid_encoder(model: ModelConfig) -> Shapes:
    """What encodes a pair: one embedding for each of its grids, and what makes one vector of its tokens."""
    width, encoder = model.hidden_size, model.encoder
    found: Shapes = {f"{grid}_embed.embedding_weight": (VOCABULARY, width) for grid in ("input", "output")}
    for index in range(encoder.layers):
        found |= _below(f"layers.{index}", _block(model, scaled=True))
    if encoder.kind not in ("standard", "recurrent", "trm_style"):
        return found | {"cls_token": (1, 1, width)}
    if encoder.pooling == "attention":
        found["pool_query"] = (1, width)
        found |= {f"pool_{name}_proj.weight": (width, width) for name in "qkvo"}
    if encoder.pooling == "weighted":
        found["pool_weight_proj.weight"] = (1, width)
    return found | {"pool_proj.weight": (width, width)}


def _block(model: ModelConfig, scaled: bool) -> Shapes:
    """Self-attention and a SwiGLU, in the encoder with a scale for each if the settings have one."""
    width = model.hidden_size
    attention: Shapes = {
        "self_attn.qkv_proj.weight": (3 * width, width),
        "self_attn.o_proj.weight": (width, width),
    }
    scales = _scales(model) if scaled else {}
    return attention | _below("mlp", _gated(width, model)) | scales


def _cross_block(model: ModelConfig) -> Shapes:
    width = model.hidden_size
    attention: Shapes = {f"{name}_proj.weight": (width, width) for name in "qkvo"}
    return attention | _below("mlp", _gated(width, model)) | _scales(model)


def _scales(model: ModelConfig) -> Shapes:
    return {name: (model.hidden_size,) for name in ("gamma_1", "gamma_2") if model.encoder.layer_scale}


def _gated(width: int, model: ModelConfig) -> Shapes:
    inner = CHUNK * math.ceil(round(model.expansion * width * 2 / 3) / CHUNK)
    return {"gate_up_proj.weight": (2 * inner, width), "down_proj.weight": (width, inner)}


def _below(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}
