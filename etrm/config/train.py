"""The train section: optimisation, and the decoder that training may start from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from etrm.config.section import Section, refused


class TrainConfig(Section):
    """Optimisation, and the decoder that training may start from."""

    steps: int = Field(1000, ge=1, description="number of optimizer steps")
    batch_size: int = Field(16, ge=1, description="number of rows in one step, over all processes")
    accumulate: int = Field(
        1,
        ge=1,
        description="number of parts in which each process computes its rows, one after the other, to save memory",
    )
    optimizer: Literal["adam_atan2", "adamw"] = Field(
        "adam_atan2", description="optimizer of the core and the encoder"
    )
    lr: float = Field(1e-4, ge=0, le=1e30, description="learning rate after the warm-up")
    lr_min_ratio: float = Field(
        1.0, ge=0, le=1, description="floor of the cosine schedule as a share of lr; 1 keeps lr constant"
    )
    warmup_steps: int = Field(
        0, ge=0, description="number of steps in which the rate rises to lr; at most train.steps"
    )
    weight_decay: float = Field(0.1, ge=0, le=1e3, description="weight decay of the core and the encoder")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the optimizer's mean of gradients, per step")
    beta2: float = Field(
        0.95, ge=0, lt=1, description="decay of the optimizer's mean of squared gradients, per step"
    )
    clip_norm: float | None = Field(
        None, gt=0, description="largest norm of the gradient of everything that trains; none for no clipping"
    )
    encoder_lr_scale: float = Field(1.0, ge=0, le=1e4, description="factor of the encoder's learning rate")
    puzzle_lr: float = Field(1e-2, ge=0, le=1e30, description="learning rate of the table of task ids (trm)")
    puzzle_weight_decay: float = Field(
        0.1, ge=0, le=1e3, description="weight decay of the table of task ids (trm)"
    )
    ema_decay: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights (EMA), per step")
    loss: Literal["stablemax", "softmax"] = Field(
        "stablemax", description="function that turns logits into probabilities"
    )
    q_halt_weight: float = Field(0.5, ge=0, description="weight of the halting loss")
    kl_weight: float = Field(
        0.0, ge=0, description="weight of a variational encoder's divergence, a sum over the batch"
    )
    decoder: Path | None = Field(
        None, description="run folder or checkpoint of the TRM whose core the decoder starts from"
    )
    decoder_weights: Literal["ema", "raw"] = Field(
        "ema", description="weights to take from train.decoder: the averaged ones or the last ones"
    )
    allow_decoder_mismatch: tuple[
        Literal["H_cycles", "L_cycles", "num_heads", "positions", "qk_norm", "mlp_t_norm"], ...
    ] = Field((), description="model settings in which train.decoder may differ from the model")
    freeze_decoder_steps: int = Field(
        0,
        ge=0,
        description="number of first steps in which only the encoder trains (trm: the table of task ids)",
    )
    freeze_encoder_steps: int = Field(
        0, ge=0, description="number of first steps in which only the decoder trains"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="precision of matrix products in training; bfloat16 is faster on a GPU that has it",
    )
    compile: bool = Field(
        False, description="use of torch.compile on the core's network and the encoder's blocks"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of every random choice")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="device of the model; auto takes a GPU if there is one"
    )
    threads: int | None = Field(
        None, ge=1, description="number of CPU threads of torch; none for its own choice"
    )
    log_every: int = Field(
        1,
        ge=1,
        description="number of steps between two readings of their numbers, for which the host waits for the device; "
        "every step is logged, and a loss that is not finite is noticed at a reading",
    )
    checkpoint_every: int = Field(200, ge=1, description="number of steps between two checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="number of checkpoints to keep, the newest")

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.freeze_decoder_steps and self.freeze_encoder_steps:
            raise refused(
                "config.both-stages",
                "both stages begin with the run, so for its first steps nothing would train: give one of "
                "train.freeze_decoder_steps and train.freeze_encoder_steps",
            )
        return self
