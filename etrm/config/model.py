"""The model section: the recursive core and the source of its context."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from etrm.config.code_names import Named
from etrm.config.section import Section, refused
from etrm.config.symbolic import SymbolicConfig

EncoderKind = Literal[
    "standard",
    "hybrid_standard",
    "lpn_standard",
    "lpn_variational",
    "hybrid_variational",
    "recurrent",
    "trm_style",
]
"""The kinds of demonstration encoders of this package, see ``etrm.model.encoders``."""
KINDS: tuple[EncoderKind, ...] = get_args(EncoderKind)
VariantName = Literal["trm", "etrm", "etrm_cached", "etrm_fct", "symbolic"]
"""The variants of this package, see ``etrm.model.construct``."""
SYMBOLIC: VariantName = "symbolic"
"""The variant that has none of the recursive core's settings."""

KNOBS: dict[str, tuple[EncoderKind, ...]] = {
    "pooling": ("standard", "recurrent", "trm_style"),
    "set_layers": ("standard", "hybrid_standard", "hybrid_variational"),
    "latent_size": ("lpn_variational", "hybrid_variational"),
}
"""Encoder settings that only some kinds have, with those kinds."""
VARIATIONAL = KNOBS["latent_size"]
"""Kinds whose context is sampled; only these have a KL divergence, which ``train.kl_weight`` weighs."""
STATEFUL: tuple[EncoderKind, ...] = ("recurrent", "trm_style")
"""Kinds that carry a state from one ACT step to the next."""


class EncoderConfig(Section):
    """The demonstration encoder."""

    kind: Annotated[str, Named("encoders", KINDS)] = Field(
        "standard", description="architecture of the encoder"
    )
    layers: int = Field(
        2, ge=1, description="number of blocks of the grid encoder; the published LPN encoders have 4 and 8"
    )
    layout: Literal["sequence", "cells"] = Field(
        "sequence",
        description="tokens of a demonstration: those of the input grid, then those of the output grid (sequence, as "
        "published), or one per cell of the canvas that adds the embeddings of both grids (cells)",
    )
    pooling: Literal["mean", "attention", "weighted", "none"] = Field(
        "mean",
        description="method that pools the tokens of a demonstration into one vector; with none the context is read "
        "from all tokens",
    )
    set_layers: int = Field(1, ge=1, description="number of cross-attention layers over the demonstrations")
    norm: Literal["post", "pre"] = Field(
        "post",
        description="position of the norm in the standard blocks; LPN blocks use pre, recurrent and trm_style post",
    )
    layer_scale: float = Field(
        0.0, ge=0, description="initial value of a learned scale per channel; 0 for no such scale"
    )
    qk_norm: bool = Field(False, description="whether the encoder's attention normalises queries and keys")
    latent_size: int | None = Field(
        None, ge=1, description="width of a variational latent; none for model.hidden_size"
    )

    @field_validator("pooling", mode="before")
    @classmethod
    def _none_is_a_word(cls, value: Any) -> Any:
        return "none" if value is None else value  # the command line reads none as null

    @model_validator(mode="after")
    def _check(self) -> EncoderConfig:
        if self.kind not in KINDS:  # code from outside, which may read any of them
            return self
        for name, kinds in KNOBS.items():
            value = getattr(self, name)
            if self.kind not in kinds and value != type(self).model_fields[name].default:
                raise refused(
                    "config.encoder-setting-without-effect",
                    f"model.encoder.{name} = {value!r} has no effect with model.encoder.kind {self.kind!r}; "
                    f"leave it out, or use one of these kinds: {', '.join(kinds)}",
                )
        return self


class HaltConfig(Section):
    """Adaptive computation time (ACT)."""

    max_steps: int = Field(16, ge=1, description="largest number of ACT steps of a sample")
    exploration: float = Field(
        0.1,
        ge=0,
        le=1,
        description="probability of a random minimum number of ACT steps; unused by etrm_fct",
    )


class ModelConfig(Section):
    """The recursive core and the source of its context."""

    variant: Annotated[str, Named("variants", get_args(VariantName))] = Field(
        "etrm",
        description="source of the context: a table of task ids (trm); an encoder that runs at every ACT step (etrm), "
        "only at a sample's first step (etrm_cached, known bad), at each of a fixed number of steps (etrm_fct), "
        "or formulas (symbolic)",
    )
    hidden_size: int = Field(
        512, ge=4, description="width of the core and the encoder, a multiple of num_heads"
    )
    num_heads: int = Field(8, ge=1, description="number of attention heads")
    expansion: float = Field(
        4.0,
        gt=0,
        description="expansion factor of a SwiGLU; its width is 2/3 of expansion times hidden_size, rounded up to a "
        "multiple of 256",
    )
    layers: int = Field(2, ge=1, description="number of blocks of the shared core (L_layers)")
    H_cycles: int = Field(3, ge=1, description="number of updates of the high-level state in one ACT step")
    L_cycles: int = Field(
        6, ge=1, description="number of updates of the low-level state per update of the high-level state"
    )
    context_tokens: int = Field(16, ge=1, description="number of context tokens before the query (P)")
    qk_norm: bool = Field(False, description="whether the core's attention normalises queries and keys")
    positions: Literal["rope", "learned", "none"] = Field(
        "rope",
        description="position encoding of the core: rotary in attention (mlp_t has none), a learned vector, or none",
    )
    mlp_t: bool = Field(
        False,
        description="whether a SwiGLU over the tokens replaces the core's attention; needs data.canvas published",
    )
    mlp_t_norm: Literal["channels", "tokens"] = Field(
        "channels",
        description="axis of the norm after mlp_t: channels of a token, or tokens of a channel (as published)",
    )
    encoder: EncoderConfig = EncoderConfig()
    halt: HaltConfig = HaltConfig()
    symbolic: SymbolicConfig = SymbolicConfig()

    @property
    def has_encoder(self) -> bool:
        """Whether the model reads demonstrations; a TRM knows a task by its id."""
        return self.variant != "trm"

    @property
    def own_variant(self) -> bool:
        """Whether the variant is code from outside."""
        return self.variant not in get_args(VariantName)

    @property
    def own_encoder(self) -> bool:
        """Whether the encoder, or the variant that calls it, is code from outside."""
        used = self.has_encoder and self.recursive
        return self.own_variant or (used and self.encoder.kind not in KINDS)

    @property
    def label(self) -> str:
        """The variant, with its kind of encoder or selector if it has one."""
        if not self.has_encoder:
            return self.variant
        return f"{self.variant}, {self.encoder.kind if self.recursive else self.symbolic.selector}"

    @property
    def recursive(self) -> bool:
        """Whether the core can start from the weights of a TRM; a model from outside is taken to."""
        return self.variant != SYMBOLIC

    @property
    def learns_predicates(self) -> bool:
        """Whether the weights of the core are those of learned predicates."""
        return self.variant == SYMBOLIC and "learned" in self.symbolic.families

    @field_validator("positions", mode="before")
    @classmethod
    def _none_is_a_word(cls, value: Any) -> Any:
        return "none" if value is None else value  # the command line reads none as null

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        self._check_sections()
        if self.hidden_size % self.num_heads:
            raise refused(
                "config.indivisible-heads",
                f"model.hidden_size {self.hidden_size} is not divisible by model.num_heads {self.num_heads}; "
                f"the next multiple is {-(-self.hidden_size // self.num_heads) * self.num_heads}",
            )
        if self.mlp_t and self.qk_norm:
            raise refused(
                "config.qk-norm-without-attention",
                "model.qk_norm normalises queries and keys, and with model.mlp_t the core has no attention",
            )
        if self.mlp_t_norm == "tokens" and not self.mlp_t:
            raise refused(
                "config.token-norm-without-mlp",
                "model.mlp_t_norm = 'tokens' has no effect without model.mlp_t",
            )
        if self.variant == "etrm_cached" and self.encoder.kind in STATEFUL:
            raise refused(
                "config.cached-context-of-stateful-encoder",
                f"model.variant etrm_cached encodes a sample only once, so the state of encoder kind "
                f"{self.encoder.kind!r} would never be used; use model.variant etrm",
            )
        if (self.hidden_size // self.num_heads) % 2:
            raise refused(
                "config.odd-head-size",
                f"the head size (hidden_size / num_heads) is {self.hidden_size // self.num_heads}; rotary positions "
                "need an even number",
            )
        return self

    def _check_sections(self) -> None:
        """Refuse settings of the recursive core for the symbolic solver, and the other way round."""
        defaults = type(self).model_fields
        if self.variant != SYMBOLIC:
            if self.variant in get_args(VariantName) and self.symbolic != SymbolicConfig():
                raise refused(
                    "config.symbolic-settings-of-other-variant",
                    f"model.symbolic has no effect with model.variant {self.variant!r}; use 'symbolic'",
                )
            return
        shared = ("variant", "halt", "symbolic")
        unused = [
            name for name in defaults if name not in shared and getattr(self, name) != defaults[name].default
        ]
        if unused:
            raise refused(
                "config.recursive-settings-of-symbolic",
                f"{', '.join(f'model.{name}' for name in unused)} has no effect with model.variant 'symbolic', "
                "which has no recursive core; leave it out",
            )
        if self.halt.max_steps != 1:
            raise refused(
                "config.steps-of-symbolic",
                f"model.variant 'symbolic' answers in one step, so model.halt.max_steps must be 1 "
                f"(got {self.halt.max_steps})",
            )
