"""Faults that can be switched on: each really happened, and each is one function on the recipe.

They serve as positive controls, as documentation, and in the bench. The investigation is never
told which one is on; it has to find it by its effect.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch.optim import Optimizer

from etrm.batch import Batch
from etrm.config import Config, with_overrides
from etrm.data import Episodes, Sample
from etrm.errors import ConfigError
from etrm.model.act import Carry
from etrm.model.recursive import Given, RecursiveModel, encode_at_reset
from etrm.training.recipe import Recipe


@dataclass(frozen=True)
class Fault:
    """A named fault.

    Attributes:
        name: as given to ``--inject``.
        what: what it does, in one sentence.
        root_cause: the hypothesis that it should validate.
        seen: where it happened.
        apply: the recipe with the fault in it.
    """

    name: str
    what: str
    root_cause: str
    seen: str
    apply: Callable[[Recipe], Recipe]


def recipe_for(config: Config) -> Recipe:
    """The recipe of a config, with its faults applied in order.

    Raises:
        ConfigError: a fault that is not known.
    """
    recipe = Recipe()
    for name in config.faults:
        recipe = find(name).apply(recipe)
    return recipe


def find(name: str) -> Fault:
    """The fault of that name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name not in FAULTS:
        close = difflib.get_close_matches(name, FAULTS, n=1, cutoff=0.4)
        raise ConfigError(
            f"unknown fault {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
            allowed=", ".join(FAULTS),
            next_step="etrm faults",
        )
    return FAULTS[name]


def _change_model(recipe: Recipe, change: Callable[[RecursiveModel], None]) -> Recipe:
    def build(config: Config, episodes: Episodes) -> RecursiveModel:
        model = recipe.build_model(config, episodes)
        change(model)
        return model

    return replace(recipe, build_model=build)


def _configure(recipe: Recipe, *settings: str) -> Recipe:
    return replace(recipe, configure=lambda config: with_overrides(recipe.configure(config), settings))


def _cached_context(recipe: Recipe) -> Recipe:
    def change(model: RecursiveModel) -> None:
        if model.encoder is not None:
            model.context_policy = encode_at_reset

    return _change_model(recipe, change)


def _context_detached(recipe: Recipe) -> Recipe:
    def change(model: RecursiveModel) -> None:
        policy = model.context_policy

        def detached(model: RecursiveModel, carry: Carry, batch: Batch) -> Given:
            given = policy(model, carry, batch)
            return replace(given, context=given.context.detach())

        if model.encoder is not None:
            model.context_policy = detached

    return _change_model(recipe, change)


def _encoder_frozen(recipe: Recipe) -> Recipe:
    def change(model: RecursiveModel) -> None:
        if model.encoder is not None:
            model.encoder.requires_grad_(False)

    return _change_model(recipe, change)


def _freeze_skips_optimizer(recipe: Recipe) -> Recipe:
    def update(optimizers: list[Optimizer], frozen: str | None) -> None:
        if frozen != "decoder":
            recipe.update(optimizers, frozen)

    def configure(config: Config) -> Config:
        config = recipe.configure(config)
        whole_run = f"train.freeze_decoder_steps={config.train.steps}"
        return with_overrides(config, ("train.freeze_encoder_steps=0", whole_run))

    def freeze(model: RecursiveModel, part: str, frozen: bool) -> None:
        """The original left requires_grad alone: it meant to freeze by not stepping."""

    return replace(recipe, configure=configure, update=update, freeze=freeze)


def _decoder_not_loaded(recipe: Recipe) -> Recipe:
    return replace(recipe, load_decoder=lambda model, config: None)


def _decoder_cycles_mismatch(recipe: Recipe) -> Recipe:
    def change(model: RecursiveModel) -> None:
        model.core.L_cycles += 2

    return _change_model(recipe, change)


def _demos_from_other_task(recipe: Recipe) -> Recipe:
    def draw(episodes: Episodes, bucket: int, index: int) -> Sample:
        sample = recipe.draw(episodes, bucket, index)
        for offset in range(1, 1000):
            other = recipe.draw(episodes, bucket, index + offset)
            if other.task_id != sample.task_id:
                return replace(sample, demos=other.demos)
        raise ConfigError("demos-from-other-task needs at least two tasks in every bucket")

    return replace(recipe, draw=draw)


FAULTS = {
    fault.name: fault
    for fault in (
        Fault(
            "cached-context",
            "encode a sample's demos when it begins, keep the context detached while it goes on",
            "H2",
            "seed 001: encoder gradients from 2 % of the batch",
            _cached_context,
        ),
        Fault(
            "context-detached",
            "the context is handed to the decoder without its graph",
            "H2",
            "the published recurrent encoders: no encoder parameter ever has a gradient",
            _context_detached,
        ),
        Fault(
            "encoder-frozen",
            "requires_grad is False on the whole encoder",
            "H2",
            "seed 004, hypothesis 2",
            _encoder_frozen,
        ),
        Fault(
            "freeze-skips-optimizer",
            "one optimiser for encoder and decoder, skipped while the decoder is frozen",
            "H2",
            "seed 004: gradients arrive, and nothing trains at all",
            _freeze_skips_optimizer,
        ),
        Fault(
            "decoder-not-loaded",
            "loading the pretrained decoder is skipped and the run goes on",
            "H1",
            "seed 004, hypothesis 1",
            _decoder_not_loaded,
        ),
        Fault(
            "decoder-cycles-mismatch",
            "the decoder runs with two L cycles more than it was trained with",
            "H1",
            "seed 004: trained at L_cycles 4, run at 6; every weight matches",
            _decoder_cycles_mismatch,
        ),
        Fault(
            "demos-from-other-task",
            "a sample's demos are drawn from another task",
            "H5",
            "control arm of the frozen-decoder experiment",
            _demos_from_other_task,
        ),
    )
}
