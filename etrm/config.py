"""The one configuration tree: frozen, closed, typed, and cross-checked when it is built.

A config comes from a preset or a TOML file, then from ``--set section.key=value`` overrides. An
unknown key names the nearest known one; a combination under which nothing sensible could happen
is refused here, before any data is read.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from etrm.errors import ConfigError
from etrm.override import override as override
from etrm.override import read_toml

SIDE = 30
"""Largest side of an ARC grid, and side of the published canvas."""


class Section(BaseModel):
    """Base of every section: immutable, and closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """Which tasks, how they are laid out as tokens, and how they are augmented."""

    source: str = Field(
        "arc-agi-1", description="arc-agi-1, arc-agi-2, a folder, or a Kaggle challenges file"
    )
    subset: Literal["training", "evaluation"] = "training"
    max_side: int = Field(SIDE, ge=1, le=SIDE, description="keep tasks whose grids all fit this side")
    max_tasks: int | None = Field(None, ge=1, description="keep the first n tasks, by id")
    exclude: tuple[str, ...] = Field((), description="ids of tasks to leave out")
    canvas: Literal["region", "published"] = "region"
    max_demos: int = Field(10, ge=1, description="demos shown of one task at the most")
    augmentations: int | Literal["fresh"] = Field(
        1, description="fixed augmentations per task, the identity first; or a fresh one per episode"
    )
    translate: int = Field(0, ge=0, lt=SIDE, description="largest shift on the canvas, training only")
    queries: Literal["test", "all"] = Field(
        "test",
        description="what is asked: test pairs, or every pair (puzzle-id variant only: demos are trained on)",
    )
    buckets: int = Field(4, ge=1, le=16, description="groups of similar region size, each with its own carry")

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.augmentations != "fresh" and self.augmentations < 1:
            raise ValueError("data.augmentations must be at least 1 (the identity) or 'fresh'")
        return self


EncoderKind = Literal[
    "standard",
    "hybrid_standard",
    "lpn_standard",
    "lpn_variational",
    "hybrid_variational",
    "recurrent",
    "trm_style",
]
"""The demonstration encoders, see ``etrm.model.encoders``."""

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

    kind: EncoderKind = "standard"
    layers: int = Field(2, ge=1, description="blocks of the grid encoder; LPN was published with 4 and 8")
    pooling: Literal["mean", "attention", "weighted"] = "mean"
    set_layers: int = Field(1, ge=1, description="cross-attention layers over the demos")
    norm: Literal["post", "pre"] = Field(
        "post",
        description="of the standard grid encoder and the set encoder; LPN blocks are always pre, carried states post",
    )
    layer_scale: float = Field(0.0, ge=0, description="initial factor per channel; 0 means none")
    qk_norm: bool = False
    latent_size: int | None = Field(
        None, ge=1, description="width of a variational latent; model.hidden_size unless given"
    )

    @model_validator(mode="after")
    def _check(self) -> EncoderConfig:
        for name, kinds in KNOBS.items():
            value = getattr(self, name)
            if self.kind not in kinds and value != type(self).model_fields[name].default:
                raise ValueError(
                    f"model.encoder.{name} = {value!r} has no effect on kind {self.kind!r}; "
                    f"leave it out, or use one of {', '.join(kinds)}"
                )
        return self


class HaltConfig(Section):
    """Adaptive computation time (ACT)."""

    max_steps: int = Field(16, ge=1)
    exploration: float = Field(0.1, ge=0, le=1, description="share of rows held to a random minimum of steps")


class ModelConfig(Section):
    """The recursive core and where its context comes from."""

    variant: Literal["trm", "etrm", "etrm_cached"] = "etrm"
    hidden_size: int = Field(512, ge=4)
    num_heads: int = Field(8, ge=1)
    expansion: float = Field(4.0, gt=0)
    layers: int = Field(2, ge=1, description="blocks of the shared core (L_layers)")
    H_cycles: int = Field(3, ge=1)
    L_cycles: int = Field(6, ge=1)
    context_tokens: int = Field(16, ge=1, description="P")
    qk_norm: bool = False
    positions: Literal["rope", "learned", "none"] = Field(
        "rope",
        description="how the core knows places: rotary in its attention (none to rotate with mlp_t), "
        "a learned vector per place, or not at all",
    )
    mlp_t: bool = Field(
        False, description="the core mixes tokens by a SwiGLU over them, not by attention; whole canvas only"
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
            raise ValueError(
                f"model.hidden_size {self.hidden_size} is not divisible by model.num_heads {self.num_heads}"
            )
        if self.mlp_t and self.qk_norm:
            raise ValueError(
                "model.qk_norm norms the queries and keys of attention, and model.mlp_t leaves none in the core"
            )
        if self.variant == "etrm_cached" and self.encoder.kind in STATEFUL:
            raise ValueError(
                f"model.variant etrm_cached encodes a sample once, so the state of encoder kind "
                f"{self.encoder.kind!r} would never go on; use variant etrm"
            )
        if (self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"head size {self.hidden_size // self.num_heads} is odd; rotary positions need an even one"
            )
        return self


class TrainConfig(Section):
    """Optimisation, and the decoder that training may start from."""

    steps: int = Field(1000, ge=1, description="optimiser steps")
    batch_size: int = Field(16, ge=1)
    optimizer: Literal["adam_atan2", "adamw"] = "adam_atan2"
    lr: float = Field(1e-4, ge=0)
    lr_min_ratio: float = Field(
        1.0, ge=0, le=1, description="cosine floor as a share of lr; 1 keeps lr constant"
    )
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.1, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    clip_norm: float | None = Field(
        None, gt=0, description="clip the norm of what is trained; none by default"
    )
    encoder_lr_scale: float = Field(1.0, ge=0)
    puzzle_lr: float = Field(1e-2, ge=0)
    puzzle_weight_decay: float = Field(0.1, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    loss: Literal["stablemax", "softmax"] = Field(
        "stablemax", description="what makes probabilities of the logits"
    )
    q_halt_weight: float = Field(0.5, ge=0)
    kl_weight: float = Field(
        0.0, ge=0, description="weight of a variational encoder's divergence, a sum over the batch"
    )
    decoder: Path | None = Field(None, description="TRM checkpoint whose core the decoder starts from")
    decoder_weights: Literal["ema", "raw"] = "ema"
    allow_decoder_mismatch: tuple[Literal["H_cycles", "L_cycles", "num_heads"], ...] = ()
    freeze_decoder_steps: int = Field(0, ge=0, description="steps during which only the encoder trains")
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; its own choice by default")
    checkpoint_every: int = Field(200, ge=1)
    keep_checkpoints: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"train.warmup_steps {self.warmup_steps} is longer than the run (train.steps {self.steps}): "
                "the rate would never be reached"
            )
        return self


class MonitorConfig(Section):
    """What the trainer records about itself; everything off gives bit-identical training."""

    enabled: bool = True
    every: int = Field(1, ge=1, description="steps between records of coverage and movement")
    probe_every: int = Field(25, ge=1, description="steps between looks at the fixed probe batch")
    probe_tasks: int = Field(16, ge=2, description="tasks of the probe batch")


class EvaluateConfig(Section):
    """Pass@k over tasks that were never trained on."""

    source: str = "arc-agi-1"
    subset: Literal["training", "evaluation"] = "evaluation"
    max_tasks: int | None = Field(None, ge=1)
    augmentations: int = Field(8, ge=1, description="votes per query, the identity first")
    allow_trained: tuple[str, ...] = Field(
        (), description="task ids that may be trained on too; 'all' for any"
    )
    batch_size: int = Field(64, ge=1)
    weights: Literal["ema", "raw"] = "ema"


class Config(Section):
    """Everything that one run depends on."""

    preset: str = ""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    monitor: MonitorConfig = MonitorConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    faults: tuple[str, ...] = Field((), description="injected faults, see `etrm faults`")

    @model_validator(mode="after")
    def _check(self) -> Config:
        train, variant = self.train, self.model.variant
        decoder_trains = train.lr > 0 and train.freeze_decoder_steps < train.steps
        encoder_trains = variant != "trm" and train.lr * train.encoder_lr_scale > 0
        table_trains = variant == "trm" and train.puzzle_lr > 0
        if not (decoder_trains or encoder_trains or table_trains):
            raise ValueError(
                "nothing would train: the decoder is frozen or has rate 0 for the whole run, and so has "
                "the rest (train.lr, train.encoder_lr_scale, train.puzzle_lr, train.freeze_decoder_steps)"
            )
        if self.model.mlp_t and self.data.canvas != "published":
            raise ValueError(
                "model.mlp_t mixes a fixed number of tokens, so it needs the whole canvas: "
                f"data.canvas = 'published', not {self.data.canvas!r}"
            )
        if train.kl_weight > 0 and (variant == "trm" or self.model.encoder.kind not in VARIATIONAL):
            raise ValueError(
                f"train.kl_weight {train.kl_weight} weighs nothing: only the encoders "
                f"{' and '.join(VARIATIONAL)} have a divergence"
            )
        if variant == "trm" and self.data.augmentations == "fresh":
            raise ValueError(
                "model.variant trm knows a task by its id, "
                "so data.augmentations must be a number, not 'fresh'"
            )
        if variant != "trm" and self.data.queries == "all":
            raise ValueError(
                "data.queries = 'all' would ask for pairs that stand among the demos; use variant trm"
            )
        return self

    def to_json(self) -> str:
        """The resolved config as stable, sorted JSON."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The inverse of :meth:`to_json`.

        Raises:
            ConfigError: the text is not JSON, or not a valid config.
        """
        try:
            return build(json.loads(text))
        except (ValueError, RecursionError) as error:  # a number of over 4300 digits is a plain ValueError
            raise ConfigError("the resolved config is not valid JSON", got=str(error)) from error


def presets() -> list[str]:
    """Names of the presets that the package ships."""
    folder = resources.files("etrm") / "presets"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def load(preset: str | None = None, path: Path | None = None, overrides: tuple[str, ...] = ()) -> Config:
    """Read a preset or a TOML file, apply ``section.key=value`` overrides, and check the result.

    Raises:
        ConfigError: an unknown preset, file, key or value, or an impossible combination.
    """
    if preset is not None and path is not None:
        raise ConfigError(
            "both a preset and a config file were given", next_step="give one of --preset and --config"
        )
    tree: dict[str, Any] = {}
    if path is not None:
        tree = read_toml(path)
    elif preset is not None:
        if preset not in presets():
            raise ConfigError(
                f"unknown preset {preset!r}" + _nearest(preset, presets()), allowed=", ".join(presets())
            )
        tree = tomllib.loads((resources.files("etrm") / "presets" / f"{preset}.toml").read_text("utf-8"))
        tree["preset"] = preset
    return build(override(tree, overrides))


def build(tree: dict[str, Any]) -> Config:
    """Check a plain tree of settings.

    Raises:
        ConfigError: naming every key at fault, and for an unknown key the nearest known one.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item) for item in error.errors())) from error


def with_overrides(config: Config, overrides: tuple[str, ...]) -> Config:
    """A config with some settings replaced, checked again."""
    return build(override(config.model_dump(mode="json"), overrides))


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _keys(field.annotation, f"{prefix}{name}.")
    return keys


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""


def _explain(item: Any) -> str:
    dotted = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown setting {dotted!r}{_nearest(dotted, _keys(Config))}"
    message = item["msg"].removeprefix("Value error, ")
    if not dotted or item["type"] == "value_error":
        return message
    return f"{dotted}: {message} (got {item['input']!r})"
