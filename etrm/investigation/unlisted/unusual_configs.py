"""Healthy configs that are unusual: settings drawn from a grammar and a seed, for unchanged code.

One grammar is of a given base. The other one starts from any preset, and also has settings of the monitor, of
checkpoints, of evaluation and of loading.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from etrm.config import Changes, Config, check_request, load, with_settings
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
PRESETS: Mapping[str, Changes] = {
    "smoke": {},
    "small": {
        "data": {"max_side": 6},
        "train": {"steps": 20, "warmup_steps": 2},
        "evaluate": {"max_tasks": 4},
    },
    "overfit": {
        "data": {"max_side": 6},
        "train": {"steps": 20, "warmup_steps": 2},
        "evaluate": {"max_tasks": 4},
    },
    "rules": {
        "train": {"steps": 40, "batch_size": 16, "warmup_steps": 4, "checkpoint_every": 25},
        "evaluate": {"max_tasks": 8, "every": 20},
    },
    "symbolic": {
        "data": {"max_tasks": 30},
        "train": {"steps": 20, "warmup_steps": 2},
        "evaluate": {"max_tasks": 8},
    },
    "symbolic-rules": {
        "data": {"max_tasks": 200},
        "train": {"steps": 20, "batch_size": 8, "warmup_steps": 2},
        "evaluate": {"max_tasks": 8},
    },
}
"""Changes with which the investigation of a preset takes minutes on a core."""
FURTHER: Mapping[str, tuple[Any, ...]] = {
    "data.source": ("arc-agi-2", "rules:shift", "rules:dihedral+colours"),
    "data.subset": ("evaluation",),
    "data.stream": (100, "endless"),
    "data.demos": ([2, 3], [1, 4]),
    "data.workers": (1, 2),
    "data.buckets": (1, 2, 5),
    "data.curriculum": ([[3, 8], [5, 12]], [[4, 10], [6, 10]], [[3, 7], [4, 13], [6, 20]]),
    "data.replay": (0.2, 0.5),
    "model.encoder.latent_size": (8,),
    "train.steps": (1, 2, 5, 20, 60),
    "train.beta1": (0.0, 0.5),
    "train.puzzle_lr": (1e-3, 0.1),
    "train.inner_steps": (1, 3),
    "train.inner_rate": (0.01, 1.0),
    "train.recompute": (True,),
    "train.static_shapes": (True,),
    "train.log_every": (3, 7, 100),
    "train.checkpoint_every": (1, 3, 7, 13),
    "train.keep_checkpoints": (1, 3, 10),
    "monitor.enabled": (False,),
    "monitor.every": (2, 3, 7, 25, 1000),
    "monitor.probe_every": (1, 4, 1000),
    "monitor.probe_tasks": (2, 3, 64),
    "monitor.reference_every": (None, 1, 3, 1000),
    "monitor.layers": (True,),
    "evaluate.source": ("arc-agi-2", "rules:shift"),
    "evaluate.subset": ("training",),
    "evaluate.demos": (1, 2, 5),
    "evaluate.allow_trained": (["all"],),
    "evaluate.every": (1, 3, 7, 1000),
    "evaluate.checkpoint": ("best",),
    "evaluate.batch_size": (1, 3, 7),
    "evaluate.weights": ("raw",),
    "evaluate.halting": ("early",),
    "evaluate.precision": ("bfloat16",),
    "evaluate.search.start": ("encoder", "mean"),
    "evaluate.search.noise": (0.0, 0.1),
    "evaluate.search.hold_out": (True,),
    "evaluate.search.stop_loss": (0.5,),
    "evaluate.search.control": (False,),
    "evaluate.adapt.rate": (1e-2,),
}
"""Values of further settings, for configs that start from any preset, of 20 or 40 steps."""
SYMBOLIC: Mapping[str, tuple[Any, ...]] = {
    "model.symbolic.families": (["original", "counting"], ["dihedral", "learned"]),
    "model.symbolic.composites": (True, False),
    "model.symbolic.tnorm": ("goedel", "lukasiewicz"),
    "model.symbolic.quantifier": ("minimum", "mean"),
    "model.symbolic.selector": ("demos",),
    "model.symbolic.selection": ("straight_through",),
    "model.symbolic.last_temperature": (0.5,),
    "train.entropy_weight": (0.01,),
}
"""The settings of the symbolic solver, which has none of the core's and the encoder's."""
FEWEST, MOST = 2, 7  # settings that a config has of the grammar
FEWEST_OF_PRESET, MOST_OF_PRESET = 6, 14  # the same of one that starts from any preset
ATTEMPTS = 1000  # far more than the grammar needs, about one in three combinations is valid


def draw_config(seed: int, base: Config) -> tuple[Config, Mapping[str, Any]]:
    """Draw the config of a seed, and the settings in which it differs from the base.

    Combinations that the config or the data refuse are drawn again.
    """
    return _draw(random.Random(f"unusual {seed}"), base, GRAMMAR, FEWEST, MOST)


def draw_from_presets(seed: int) -> tuple[Config, Mapping[str, Any]]:
    """The same from a preset that is drawn too, which is the first of the settings."""
    rng = random.Random(f"from presets {seed}")
    preset = rng.choice(sorted(PRESETS))
    base = with_settings(load(preset), **PRESETS[preset])
    grammar = {**GRAMMAR, **FURTHER}
    if not base.model.recursive:
        others = {name: values for name, values in grammar.items() if not name.startswith("model.")}
        grammar = {**others, **SYMBOLIC}
    config, settings = _draw(rng, base, grammar, FEWEST_OF_PRESET, MOST_OF_PRESET)
    return config, {"preset": preset, **settings}


def _draw(
    rng: random.Random, base: Config, grammar: Mapping[str, tuple[Any, ...]], fewest: int, most: int
) -> tuple[Config, Mapping[str, Any]]:
    for _ in range(ATTEMPTS):
        names = rng.sample(sorted(grammar), rng.randint(fewest, most))
        settings = {name: rng.choice(grammar[name]) for name in sorted(names)}
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
