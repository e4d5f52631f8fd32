"""The train section: optimisation, and the decoder that training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from etrm.config.section import Precision, Section, refused


class TrainConfig(Section):
    """Optimisation, and the decoder that training starts from."""

    steps: int = Field(1000, ge=1, description="number of optimizer steps")
    batch_size: int = Field(
        16, ge=1, description="number of samples per optimizer step, summed over all processes"
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="parts of a batch that each process computes in turn, to save memory",
    )
    optimizer: Literal["adam_atan2", "adamw"] = Field(
        "adam_atan2", description="optimizer of the core and the encoder"
    )
    lr: float = Field(1e-4, ge=0, le=1e30, description="learning rate after the warm-up")
    lr_min_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="final learning rate of the cosine schedule, as a share of lr; 1: constant",
    )
    warmup_steps: int = Field(
        0,
        ge=0,
        description="steps in which the learning rate rises linearly to lr; at most train.steps",
    )
    weight_decay: float = Field(0.1, ge=0, le=1e3, description="weight decay of the core and the encoder")
    beta1: float = Field(
        0.9, ge=0, lt=1, description="decay per step of the optimizer's running mean of gradients"
    )
    beta2: float = Field(
        0.95, ge=0, lt=1, description="decay per step of the optimizer's running mean of squared gradients"
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        description="largest norm of the gradient of all trained parameters together; none for no clipping",
    )
    encoder_lr_scale: float = Field(
        1.0, ge=0, le=1e4, description="factor of the learning rate for the encoder"
    )
    puzzle_lr: float = Field(1e-2, ge=0, le=1e30, description="learning rate of the table of task ids (trm)")
    puzzle_weight_decay: float = Field(
        0.1, ge=0, le=1e3, description="weight decay of the table of task ids (trm)"
    )
    ema_decay: float = Field(0.999, ge=0, lt=1, description="decay per step of the averaged weights (EMA)")
    loss: Literal["stablemax", "softmax"] = Field(
        "stablemax", description="function that turns logits into probabilities"
    )
    q_halt_weight: float = Field(0.5, ge=0, description="weight of the halting loss")
    kl_weight: float = Field(
        0.0,
        ge=0,
        description="weight of a variational encoder's KL divergence, summed over the batch",
    )
    entropy_weight: float = Field(
        0.0,
        ge=0,
        description="weight of the entropy of template weights, summed over the batch",
    )
    decoder: Path | None = Field(
        None, description="run folder or checkpoint of a TRM; the decoder starts from the weights of its core"
    )
    decoder_weights: Literal["ema", "raw"] = Field(
        "ema",
        description="weights to take from train.decoder: the averaged ones (ema) or the last ones (raw)",
    )
    allow_decoder_mismatch: tuple[
        Literal["H_cycles", "L_cycles", "num_heads", "positions", "qk_norm", "mlp_t_norm"], ...
    ] = Field((), description="model settings in which train.decoder is allowed to differ from the model")
    freeze_decoder_steps: int = Field(
        0,
        ge=0,
        description="number of initial steps in which only the encoder trains (trm: the table of task ids)",
    )
    freeze_encoder_steps: int = Field(
        0,
        ge=0,
        description="number of initial steps in which only the decoder trains",
    )
    inner_steps: int = Field(
        0,
        ge=0,
        le=100,
        description="number of gradient steps on each context in training, from the loss of the demonstrations as "
        "queries; they are not differentiated through",
    )
    inner_rate: float = Field(0.1, gt=0, le=1e3, description="learning rate of the inner steps' Adam")
    precision: Precision = Field(
        "float32",
        description="precision of matrix products in training; bfloat16 is faster on a GPU that supports it",
    )
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="whether to use torch.compile on the core's network and the encoder's blocks; auto: where it was "
        "measured to pay, in runs of at least 5,000 steps in bfloat16 on a GPU with model.hidden_size at least 512",
    )
    static_shapes: bool = Field(
        False,
        description="whether lengths and numbers of pairs are rounded up to few values, each compiled separately",
    )
    cuda_graphs: bool = Field(
        False,
        description="whether kernels are replayed from CUDA graphs, for runs in which starting them takes most time; "
        "needs a GPU",
    )
    recompute: bool = Field(
        False,
        description="whether the backward pass computes the activations of blocks again instead of keeping them, which "
        "takes a fraction of the memory and more time",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of every random choice")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="device of the model; auto is a GPU if there is one, else the CPU"
    )
    threads: int | None = Field(
        None, ge=1, description="number of CPU threads of torch; none for torch's default"
    )
    log_every: int = Field(
        1,
        ge=1,
        description="number of steps between two transfers of the metrics to the host, which waits for the device; "
        "every step is logged, but a non-finite loss is detected only at a transfer",
    )
    checkpoint_every: int = Field(200, ge=1, description="number of steps between two checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="number of newest checkpoints to keep")

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.freeze_decoder_steps and self.freeze_encoder_steps:
            raise refused(
                "config.both-stages",
                "train.freeze_decoder_steps and train.freeze_encoder_steps both start at step 0, so nothing would "
                "train in the first steps; use only one of them",
            )
        return self
