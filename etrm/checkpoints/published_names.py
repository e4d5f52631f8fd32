"""Translate tensor names and settings between the published code and ours, in both directions.

The names follow the checkpoints of SamsungSAILMontreal/TinyRecursiveModels and bdsaglam/etrm. The arrays in
``tests/parity`` pin the names of six models.
"""

from __future__ import annotations

import re
from typing import Any, get_args

from etrm.config import KINDS, KNOBS, STATEFUL, EncoderKind, ModelConfig, VariantName
from etrm.errors import CheckpointError
from etrm.model.core import VOCABULARY
from etrm.model.encoders.carried import H_CYCLES, L_CYCLES, LAYERS

WRAPPERS = ("_orig_mod.", "module.", "model.")
"""Prefixes that compilation, DDP and the published loss head add to every name."""

_NAMES = (
    ("inner.puzzle_emb.", "puzzle_table."),
    ("inner.", "core."),
    ("encoder.z_e_", "encoder.z_"),
    ("encoder.mlp.", "encoder.cross_attention.mlp."),
    ("encoder.cross_attn.", "encoder.cross_attention."),
    ("encoder.L_level.layers.", "encoder.layers."),
    ("encoder.mu_proj.", "encoder.latent.mu_proj."),
    ("encoder.logvar_proj.", "encoder.latent.logvar_proj."),
    ("encoder.decode_proj.", "encoder.output_proj."),
)
"""Pairs of name prefixes, the published one and ours. Names that match no prefix are the same in both."""
_DECODE_PROJ: tuple[EncoderKind, ...] = ("hybrid_variational",)
_LPN: tuple[EncoderKind, ...] = ("hybrid_standard", "hybrid_variational", "lpn_standard", "lpn_variational")
# A published LPN block has no wrapper around its attention; otherwise it equals ours.
_LPN_PUBLISHED = re.compile(r"^(encoder\.grid_encoder\.layers\.\d+\.)((?:qkv|o)_proj\.)")
_LPN_OURS = re.compile(r"^(encoder\.grid_encoder\.layers\.\d+\.)self_attn\.")

SETTINGS = {
    "hidden_size": "hidden_size",
    "num_heads": "num_heads",
    "expansion": "expansion",
    "L_layers": "layers",
    "H_cycles": "H_cycles",
    "L_cycles": "L_cycles",
    "puzzle_emb_len": "context_tokens",
    "pos_encodings": "positions",
    "mlp_t": "mlp_t",
    "halt_max_steps": "halt.max_steps",
    "halt_exploration_prob": "halt.exploration",
    "encoder_num_layers": "encoder.layers",
    "encoder_pooling_method": "encoder.pooling",
    "encoder_set_layers": "encoder.set_layers",
    "encoder_norm_style": "encoder.norm",
    "encoder_layer_scale_init": "encoder.layer_scale",
}
"""Published names of settings, with ours in the model section. The kind of encoder has two published names."""
_CARRIED = {"recurrent": "recurrent_standard", "trm_style": "trm_style"}
"""Kinds of encoder that the published code selects with ``recurrent_encoder_type``."""
_TRM_STYLE = {"encoder_h_cycles": H_CYCLES, "encoder_l_cycles": L_CYCLES, "encoder_l_layers": LAYERS}
"""Settings of the published trm_style encoder that are constant in our code."""


def strip_wrappers(name: str) -> str:
    """Return the name of a tensor without the prefixes that compilation, DDP and wrappers add."""
    while name.startswith(WRAPPERS):
        for prefix in WRAPPERS:
            name = name.removeprefix(prefix)
    return name


def to_our_name(name: str) -> str:
    """Return our name of a tensor with a published name, with or without wrapper prefixes. Our names are unchanged."""
    name = strip_wrappers(name)
    for theirs, ours in sorted(_NAMES, reverse=True):  # the longest prefix first
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            break
    return _LPN_PUBLISHED.sub(r"\1self_attn.\2", name)


def to_published_name(name: str, kind: str) -> str:
    """The inverse of :func:`to_our_name` for a tensor of a model with that kind of encoder."""
    if kind in _LPN:
        name = _LPN_OURS.sub(r"\1", name)
    for theirs, ours in sorted(_NAMES, key=lambda pair: pair[1], reverse=True):
        if name.startswith(ours) and (theirs != "encoder.decode_proj." or kind in _DECODE_PROJ):
            return "model." + theirs + name.removeprefix(ours)
    return "model." + name


def to_published_settings(model: ModelConfig) -> dict[str, Any]:
    """Return a model section under the published names.

    Raises:
        CheckpointError: the published code cannot compute this model.
    """
    encoder = model.encoder
    impossible = {
        "model.variant": model.variant not in get_args(VariantName),
        "model.encoder.kind": model.variant != "trm" and encoder.kind not in KINDS,
        "model.qk_norm": model.qk_norm,
        "model.encoder.qk_norm": model.variant != "trm" and encoder.qk_norm,
        "model.encoder.layout": model.variant != "trm" and encoder.layout == "cells",
        "model.encoder.pooling": model.variant != "trm" and encoder.pooling == "none",
        "model.mlp_t_norm": model.mlp_t and model.mlp_t_norm == "channels",
        "model.encoder.layer_scale": model.variant != "trm"
        and encoder.kind in STATEFUL
        and encoder.layer_scale > 0,
    }
    refused = [name for name, is_set in impossible.items() if is_set]
    if refused:
        raise CheckpointError(
            "export.other-function",
            "the published code cannot compute this model",
            got=", ".join(refused),
            allowed="variants and encoders of this package that pool demonstrations in sequence, without "
            "qk_norm or a recurrent layer_scale, and with model.mlp_t_norm = 'tokens' if mlp_t is on",
            next_step="etrm config RUN shows the settings of a run",
        )
    tree = model.model_dump(mode="json")
    values = {theirs: _value(tree, ours) for theirs, ours in SETTINGS.items()}
    if model.variant == "trm":
        return {name: value for name, value in values.items() if not name.startswith("encoder_")}
    return values | _kind_settings(encoder.kind)


def _kind_settings(kind: str) -> dict[str, Any]:
    if kind not in STATEFUL:
        return {"encoder_type": kind}
    return {"recurrent_encoder_type": _CARRIED[kind]} | (_TRM_STYLE if kind == "trm_style" else {})


def to_our_settings(values: dict[str, Any], variant: str, kind: EncoderKind) -> dict[str, Any]:
    """Return published settings as dotted names of the model section. Settings without effect are left out.

    Args:
        values: the published names and their values; unknown names are ignored.
        variant, kind: the variant of the model and the kind of its encoder, as its tensors show.

    Raises:
        CheckpointError: the settings describe another model than the tensors, or one that we do not have.
    """
    wanted = {"vocab_size": VOCABULARY} | (_kind_settings(kind) if variant != "trm" else {})
    wrong = {name: values[name] for name, value in wanted.items() if values.get(name, value) != value}
    if wrong:
        raise CheckpointError(
            "import.settings-of-other-model",
            "the settings describe another model than the tensors do, or a model that etrm does not have",
            got=", ".join(f"{name} = {value!r}" for name, value in wrong.items()),
            allowed=", ".join(f"{name} = {wanted[name]!r}" for name in wrong),
            next_step="name the settings file of this checkpoint",
        )
    found = {SETTINGS[name]: value for name, value in values.items() if name in SETTINGS}
    idle = {f"encoder.{knob}" for knob, kinds in KNOBS.items() if kind not in kinds}
    idle |= {name for name in found if variant == "trm" and name.startswith("encoder.")}
    return {name: value for name, value in found.items() if name not in idle}


def _value(tree: dict[str, Any], dotted: str) -> Any:
    for part in dotted.split("."):
        tree = tree[part]
    return tree
