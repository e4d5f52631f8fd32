"""The train section: optimisation, and the decoder that training may start from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from etrm.config.section import Section


class TrainConfig(Section):
    """Optimisation, and the decoder that training may start from."""

    steps: int = Field(1000, ge=1, description="optimiser steps")
    batch_size: int = Field(16, ge=1, description="rows of one step, over all processes")
    accumulate: int = Field(
        1,
        ge=1,
        description="parts in which each process computes its rows, one after the other, to save memory",
    )
    optimizer: Literal["adam_atan2", "adamw"] = "adam_atan2"
    lr: float = Field(1e-4, ge=0, le=1e30)
    lr_min_ratio: float = Field(
        1.0, ge=0, le=1, description="cosine floor as a share of lr; 1 keeps lr constant"
    )
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.1, ge=0, le=1e3)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    clip_norm: float | None = Field(
        None, gt=0, description="clip the norm of what is trained; none by default"
    )
    encoder_lr_scale: float = Field(1.0, ge=0, le=1e4)
    puzzle_lr: float = Field(1e-2, ge=0, le=1e30)
    puzzle_weight_decay: float = Field(0.1, ge=0, le=1e3)
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
    allow_decoder_mismatch: tuple[
        Literal["H_cycles", "L_cycles", "num_heads", "positions", "qk_norm", "mlp_t_norm"], ...
    ] = ()
    freeze_decoder_steps: int = Field(
        0, ge=0, description="first steps of the run, in which only the encoder trains (TRM: the table)"
    )
    freeze_encoder_steps: int = Field(
        0, ge=0, description="first steps of the run, in which only the decoder trains"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of matrix products in training; bfloat16 pays on a GPU that has it"
    )
    compile: bool = Field(False, description="torch.compile the core's network and the encoder's blocks")
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; its own choice by default")
    log_every: int = Field(
        1,
        ge=1,
        description="steps between two readings of their numbers, for which the host waits for the device; every "
        "step is logged. A loss that is not finite is noticed at a reading",
    )
    checkpoint_every: int = Field(200, ge=1)
    keep_checkpoints: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.freeze_decoder_steps and self.freeze_encoder_steps:
            raise ValueError(
                "both stages begin with the run, so for its first steps nothing would train: give one of "
                "train.freeze_decoder_steps and train.freeze_encoder_steps"
            )
        return self
