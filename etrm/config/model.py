"""The model section: the recursive core, and where its context comes from."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from etrm.config.code_names import Named
from etrm.config.section import Section, refused

EncoderKind = Literal[
    "standard",
    "hybrid_standard",
    "lpn_standard",
    "lpn_variational",
    "hybrid_variational",
    "recurrent",
    "trm_style",
]
"""The demonstration encoders of this package, see ``etrm.model.encoders``."""
KINDS: tuple[EncoderKind, ...] = get_args(EncoderKind)
Variant = Literal["trm", "etrm", "etrm_cached", "etrm_fct"]
"""The variants of this package, see ``etrm.model.recursive``."""

KNOBS: dict[str, tuple[EncoderKind, ...]] = {
    "pooling": ("standard", "recurrent", "trm_style"),
    "set_layers": ("standard", "hybrid_standard", "hybrid_variational"),
    "latent_size": ("lpn_variational", "hybrid_variational"),
}
"""Encoder settings that not every kind has, and the kinds that do."""
VARIATIONAL = KNOBS["latent_size"]
"""Kinds whose context is sampled, so that there is a divergence (KL) to weigh."""
STATEFUL: tuple[EncoderKind, ...] = ("recurrent", "trm_style")
"""Kinds whose state goes on from one ACT step to the next."""


class EncoderConfig(Section):
    """The demonstration encoder."""

    kind: Annotated[str, Named("encoders", KINDS)] = Field(
        "standard", description="architecture of the encoder"
    )
    layers: int = Field(
        2, ge=1, description="number of blocks of the grid encoder; LPN was published with 4 and 8"
    )
    pooling: Literal["mean", "attention", "weighted"] = Field(
        "mean", description="pooling of the tokens of a demonstration into one vector"
    )
    set_layers: int = Field(1, ge=1, description="number of cross-attention layers over the demonstrations")
    norm: Literal["post", "pre"] = Field(
        "post",
        description="place of the norm in the blocks of the standard grid encoder and the set encoder; LPN blocks are "
        "always pre, carried states post",
    )
    layer_scale: float = Field(
        0.0, ge=0, description="initial value of a learned factor per channel; 0 for no such factor"
    )
    qk_norm: bool = Field(False, description="norm of the queries and keys in the encoder's attention")
    latent_size: int | None = Field(
        None, ge=1, description="width of a variational latent; none for model.hidden_size"
    )

    @model_validator(mode="after")
    def _check(self) -> EncoderConfig:
        if self.kind not in KINDS:  # code from outside, which may read any of them
            return self
        for name, kinds in KNOBS.items():
            value = getattr(self, name)
            if self.kind not in kinds and value != type(self).model_fields[name].default:
                raise refused(
                    "config.encoder-setting-without-effect",
                    f"model.encoder.{name} = {value!r} has no effect on kind {self.kind!r}; "
                    f"leave it out, or use one of {', '.join(kinds)}",
                )
        return self


class HaltConfig(Section):
    """Adaptive computation time (ACT)."""

    max_steps: int = Field(16, ge=1, description="largest number of ACT steps of a sample")
    exploration: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of rows held to a random minimum of ACT steps; etrm_fct always takes all",
    )


class ModelConfig(Section):
    """The recursive core and where its context comes from."""

    variant: Annotated[str, Named("variants", get_args(Variant))] = Field(
        "etrm",
        description="source of the context: a table of task ids (trm); an encoder at every ACT step (etrm), at a "
        "sample's first step only (etrm_cached, known bad), or at each of a fixed number of steps (etrm_fct)",
    )
    hidden_size: int = Field(
        512, ge=4, description="width of the core and the encoder, a multiple of num_heads"
    )
    num_heads: int = Field(8, ge=1, description="number of attention heads")
    expansion: float = Field(
        4.0,
        gt=0,
        description="expansion of a SwiGLU, whose width is 2/3 of expansion times hidden_size, rounded up to 256",
    )
    layers: int = Field(2, ge=1, description="number of blocks of the shared core (L_layers)")
    H_cycles: int = Field(3, ge=1, description="number of updates of the high-level state in one ACT step")
    L_cycles: int = Field(
        6, ge=1, description="number of updates of the low-level state for each of the high-level one"
    )
    context_tokens: int = Field(16, ge=1, description="number of context tokens before the query (P)")
    qk_norm: bool = Field(False, description="norm of the queries and keys in the core's attention")
    positions: Literal["rope", "learned", "none"] = Field(
        "rope",
        description="position encoding of the core: rotary in its attention (which mlp_t does not have), a learned "
        "vector per position, or none",
    )
    mlp_t: bool = Field(
        False,
        description="mixing of tokens in the core by a SwiGLU over them instead of attention; whole canvas only",
    )
    mlp_t_norm: Literal["channels", "tokens"] = Field(
        "channels",
        description="axis of the norm after mlp_t's mixing: the channels of a token, or the tokens of a channel, as in "
        "the published code and its checkpoints",
    )
    encoder: EncoderConfig = EncoderConfig()
    halt: HaltConfig = HaltConfig()

    @field_validator("positions", mode="before")
    @classmethod
    def _none_is_a_word(cls, value: Any) -> Any:
        return "none" if value is None else value  # the command line reads none as null

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.hidden_size % self.num_heads:
            raise refused(
                "config.indivisible-heads",
                f"model.hidden_size {self.hidden_size} is not divisible by model.num_heads {self.num_heads}",
            )
        if self.mlp_t and self.qk_norm:
            raise refused(
                "config.qk-norm-without-attention",
                "model.qk_norm norms the queries and keys of attention, and model.mlp_t leaves none in the core",
            )
        if self.mlp_t_norm == "tokens" and not self.mlp_t:
            raise refused(
                "config.token-norm-without-mlp",
                "model.mlp_t_norm = 'tokens' has no effect without model.mlp_t",
            )
        if self.variant == "etrm_cached" and self.encoder.kind in STATEFUL:
            raise refused(
                "config.cached-context-of-stateful-encoder",
                f"model.variant etrm_cached encodes a sample once, so the state of encoder kind "
                f"{self.encoder.kind!r} would never continue; use variant etrm",
            )
        if (self.hidden_size // self.num_heads) % 2:
            raise refused(
                "config.odd-head-size",
                f"head size {self.hidden_size // self.num_heads} is odd; rotary positions need an even one",
            )
        return self
