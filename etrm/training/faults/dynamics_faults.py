"""Faults of H4 and H7: settings and losses that slow training down, and encoders that are too weak."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from etrm.config import VARIATIONAL, Changes, Config
from etrm.training.faults.seam import Fault, change_settings
from etrm.training.recipe import Recipe

SPIKE, EVERY = 40.0, 25
"""The factor on the loss of a spike, and the number of steps per spike: 4 % of the steps have one."""


def _lr_too_high(recipe: Recipe) -> Recipe:
    def settings(config: Config) -> Changes:
        return {"train": {"encoder_lr_scale": min(1e4, 100 * config.train.encoder_lr_scale)}}

    return change_settings(recipe, settings)


def _no_clip_spikes(recipe: Recipe) -> Recipe:
    def weigh(loss: Tensor, step: int) -> Tensor:
        loss = recipe.weigh(loss, step)
        return SPIKE * loss if step % EVERY == EVERY // 2 else loss

    return replace(change_settings(recipe, lambda config: {"train": {"clip_norm": None}}), weigh=weigh)


def _warmup_too_long(recipe: Recipe) -> Recipe:
    return change_settings(recipe, lambda config: {"train": {"warmup_steps": 20 * config.train.steps}})


VARIATIONAL_ENCODER = {"kind": "hybrid_variational", "pooling": "mean"}
"""The variational encoder of both faults of H7."""


def _encoder_one_token(recipe: Recipe) -> Recipe:
    """The context goes through one vector of four numbers."""
    narrow: Changes = {"model": {"encoder": {**VARIATIONAL_ENCODER, "latent_size": 4}}}
    return change_settings(recipe, lambda config: narrow)


def _posterior_collapse(recipe: Recipe) -> Recipe:
    def settings(config: Config) -> Changes:
        already = config.model.encoder.kind in VARIATIONAL
        return {"model": {"encoder": {} if already else VARIATIONAL_ENCODER}, "train": {"kl_weight": 1000}}

    return change_settings(recipe, settings)


ENTROPY_WEIGHT = 10.0
"""The weight with which the selector `demos` has one template for every task after 20 steps; 0.01 does no harm."""


def _entropy_collapse(recipe: Recipe) -> Recipe:
    """The selector `fit`, which evaluates the demonstrations, does not collapse; it is replaced by an encoder."""

    def settings(config: Config) -> Changes:
        fitted = config.model.symbolic.selector == "fit"
        symbolic = {"selector": "demos", "pairwise": False} if fitted else {}
        return {"model": {"symbolic": symbolic}, "train": {"entropy_weight": ENTROPY_WEIGHT}}

    return change_settings(recipe, settings)


FAULTS = (
    Fault(
        "lr-too-high",
        "the learning rate of the encoder is 100 times the configured one",
        "H4",
        "Encoder training analysis, hypothesis 2",
        _lr_too_high,
    ),
    Fault(
        "no-clip-spikes",
        "gradients are not clipped, and the loss of every 25th step is multiplied by 40",
        "H4",
        "Encoder training analysis, hypothesis 3",
        _no_clip_spikes,
    ),
    Fault(
        "warmup-too-long",
        "the warm-up is 20 times as long as the run",
        "H4",
        "Encoder training analysis: a warm-up copied from a run that took days",
        _warmup_too_long,
    ),
    Fault(
        "entropy-collapse",
        "the entropy of the weights that an encoder gives templates dominates the loss, so one has all the weight",
        "H4",
        "Training loss analysis: its code adds this entropy, and selects one template for all pairs",
        _entropy_collapse,
        models="symbolic",
    ),
    Fault(
        "encoder-one-token",
        "the whole context goes through one vector of four numbers",
        "H7",
        "Encoder training analysis, hypothesis 4",
        _encoder_one_token,
        models="recursive",
    ),
    Fault(
        "posterior-collapse",
        "a variational encoder whose KL weight is so large that it encodes every task alike",
        "H7",
        "Project briefing: LPN with the full KL weight",
        _posterior_collapse,
        models="recursive",
    ),
)
