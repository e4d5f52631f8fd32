"""Healthy configs that are unusual: settings drawn from a grammar and a seed, on unchanged code."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from etrm.config import Changes, Config, check_request, with_settings
from etrm.data import open_episodes
from etrm.errors import EtrmError
from etrm.training.faults import build_recipe

GRAMMAR: Mapping[str, tuple[Any, ...]] = {
    "data.augmentations": (1, 3, "fresh"),
    "data.max_demos": (1, 2, 3, 5),
    "data.max_tasks": (5, 8, 20, 40),
    "data.max_side": (4, 6, 8),
    "data.buckets": (2, 3),
    "data.queries": ("leave_one_out", "all"),
    "data.translate": (1, 2),
    "data.curriculum": ([[3, 8], [5, 12]], [[4, 10], [6, 10]]),
    "model.variant": ("trm", "etrm_fct"),
    "model.hidden_size": (16, 24, 48, 64),
    "model.num_heads": (1, 2, 4),
    "model.expansion": (1.0, 2.0, 6.0),
    "model.layers": (2, 3),
    "model.H_cycles": (1, 3),
    "model.L_cycles": (2, 3),
    "model.context_tokens": (2, 8, 12),
    "model.qk_norm": (True,),
    "model.positions": ("learned", "none"),
    "model.encoder.kind": (
        "hybrid_standard",
        "lpn_standard",
        "lpn_variational",
        "hybrid_variational",
        "recurrent",
        "trm_style",
    ),
    "model.encoder.layers": (2, 3),
    "model.encoder.layout": ("cells",),
    "model.encoder.pooling": ("attention", "weighted", "none"),
    "model.encoder.set_layers": (2,),
    "model.encoder.norm": ("pre",),
    "model.encoder.layer_scale": (0.1, 0.5),
    "model.encoder.qk_norm": (True,),
    "model.halt.max_steps": (1, 2, 6, 8),
    "model.halt.exploration": (0.0, 0.5),
    "train.batch_size": (1, 2, 4, 12, 24),
    "train.accumulate": (2, 4),
    "train.optimizer": ("adam_atan2",),
    "train.lr": (3e-4, 5e-4, 2e-3, 3e-3),
    "train.lr_min_ratio": (0.0, 0.1),
    "train.warmup_steps": (0, 5, 10),
    "train.weight_decay": (0.0, 0.5),
    "train.beta2": (0.9, 0.99),
    "train.clip_norm": (None, 0.1, 0.5, 10.0),
    "train.encoder_lr_scale": (0.3, 0.5, 2.0),
    "train.ema_decay": (0.0, 0.5, 0.99, 0.999),
    "train.loss": ("softmax",),
    "train.q_halt_weight": (0.1, 1.0),
    "train.kl_weight": (1e-3,),
    "train.freeze_encoder_steps": (5, 10),
    "train.freeze_decoder_steps": (5, 10),
    "train.precision": ("bfloat16",),
    "evaluate.augmentations": (1, 3),
    "evaluate.max_tasks": (2, 8),
}
"""Values of settings with which the preset smoke trains as it should."""
FEWEST, MOST = 2, 7  # settings that a config has of the grammar
ATTEMPTS = 1000  # far more than the grammar needs, about one in three combinations is valid


def draw_config(seed: int, base: Config) -> tuple[Config, Mapping[str, Any]]:
    """Draw the config of a seed, and the settings in which it differs from the base.

    Combinations that the config or the data refuse are drawn again.
    """
    rng = random.Random(f"unusual {seed}")
    for _ in range(ATTEMPTS):
        names = rng.sample(sorted(GRAMMAR), rng.randint(FEWEST, MOST))
        settings = {name: rng.choice(GRAMMAR[name]) for name in sorted(names)}
        try:
            config = check_request(with_settings(base, **nest(settings)))
            recipe = build_recipe(config)
            config = recipe.configure(config)
            open_episodes(recipe.tasks(config), config.data, config.model.variant, config.train.seed)
        except EtrmError:
            continue
        return config, settings
    raise AssertionError("the grammar draws no valid config")


def nest(settings: Mapping[str, Any]) -> Changes:
    """Return dotted names as the tree of sections that :func:`etrm.config.with_settings` takes."""
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        *sections, last = name.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return tree  # type: ignore[return-value]
