"""Faults of H1: the pretrained decoder is not loaded, or changes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.optim import Optimizer

from etrm.checkpoints.decoder_loading import read_source
from etrm.config import Config, with_settings
from etrm.model.recursive import recursive_core
from etrm.model.variant import Variant
from etrm.training.faults.seam import Fault, change_model, change_settings, freeze_decoder_settings
from etrm.training.recipe import Recipe


def _decoder_not_loaded(recipe: Recipe) -> Recipe:
    return replace(recipe, load_decoder=lambda model, config: None)


def _decoder_wrong_prefix(recipe: Recipe) -> Recipe:
    def load(model: Variant, config: Config) -> None:
        if config.train.decoder is not None:
            source = read_source(config.train.decoder, config.train.decoder_weights)
            renamed = {f"inner.{name}": tensor for name, tensor in source.tensors.items()}
            model.core.load_state_dict(renamed, strict=False)

    return replace(recipe, load_decoder=load)


def _decoder_raw_for_ema(recipe: Recipe) -> Recipe:
    def load(model: Variant, config: Config) -> None:
        other = "raw" if config.train.decoder_weights == "ema" else "ema"
        recipe.load_decoder(model, with_settings(config, train={"decoder_weights": other}))

    return replace(recipe, load_decoder=load)


def _decoder_cycles_mismatch(recipe: Recipe) -> Recipe:
    def change(model: Variant) -> None:
        recursive_core(model).L_cycles += 2

    return change_model(recipe, change)


def _decoder_moves(recipe: Recipe) -> Recipe:
    def freeze(model: Variant, part: str, frozen: bool) -> None:
        """Change nothing: parameters keep requires_grad, and update() zeroes their gradients."""

    def update(optimizers: list[Optimizer], frozen: str | None) -> None:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                if group.get("name") == frozen:
                    for parameter in group["params"]:
                        parameter.grad = torch.zeros_like(parameter)
        recipe.update(optimizers, frozen)

    return replace(change_settings(recipe, freeze_decoder_settings), freeze=freeze, update=update)


FAULTS = (
    Fault(
        "decoder-not-loaded",
        "loading the pretrained decoder is skipped without an error",
        "H1",
        "Low-performance investigation, hypothesis 1",
        _decoder_not_loaded,
        models="recursive",
    ),
    Fault(
        "decoder-wrong-prefix",
        "the decoder is loaded without strictness under a prefix that matches no key",
        "H1",
        "a variant of decoder-not-loaded: `strict=False` and a wrapped model",
        _decoder_wrong_prefix,
        models="recursive",
    ),
    Fault(
        "decoder-raw-for-ema",
        "the decoder gets the raw weights of its checkpoint instead of the averaged ones",
        "H1",
        "a variant of decoder-not-loaded",
        _decoder_raw_for_ema,
        models="recursive",
    ),
    Fault(
        "decoder-cycles-mismatch",
        "the decoder runs with two L cycles more than it was trained with",
        "H1",
        "Low-performance investigation: trained at L_cycles 4, run at 6; every weight matches",
        _decoder_cycles_mismatch,
        models="recursive",
    ),
    Fault(
        "decoder-moves",
        "the decoder is frozen by zero gradients, and weight decay moves it",
        "H1",
        "Low-performance investigation: frozen weights that were not those of the checkpoint",
        _decoder_moves,
        models="recursive",
    ),
)
