"""What a fault is, and the ways in which one enters a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from etrm.batch import Batch
from etrm.config import Changes, Config, with_settings
from etrm.data import Episodes
from etrm.model.act import Carry
from etrm.model.variant import ContextPolicy, Given, Variant
from etrm.training.recipe import Recipe


@dataclass(frozen=True)
class Fault:
    """A named fault.

    Attributes:
        name: as given to ``--inject``.
        what: what it does, in one sentence.
        root_cause: the hypothesis that it should validate; ``cost`` and ``halting`` are findings that
            belong to none.
        seen: where it happened.
        apply: the recipe with the fault in it.
    """

    name: str
    what: str
    root_cause: str
    seen: str
    apply: Callable[[Recipe], Recipe]


def change_settings(recipe: Recipe, settings: Callable[[Config], Changes]) -> Recipe:
    """The recipe with other settings than it was given."""

    def configure(config: Config) -> Config:
        config = recipe.configure(config)
        return with_settings(config, **settings(config))

    return replace(recipe, configure=configure)


def change_model(recipe: Recipe, change: Callable[[Variant], None]) -> Recipe:
    """The recipe with a model that is changed once it is built."""

    def build(config: Config, episodes: Episodes) -> Variant:
        model = recipe.build_model(config, episodes)
        change(model)
        return model

    return replace(recipe, build_model=build)


def wrap_policy(recipe: Recipe, wrap: Callable[[ContextPolicy], ContextPolicy]) -> Recipe:
    """The recipe with another way from the demonstrations to the context; a TRM has none and stays."""

    def change(model: Variant) -> None:
        if model.encoder is not None:
            model.context_policy = wrap(model.context_policy)

    return change_model(recipe, change)


def change_context(recipe: Recipe, change: Callable[[Given], Given]) -> Recipe:
    """The recipe with a change to what the decoder is given, after the encoder."""

    def wrap(policy: ContextPolicy) -> ContextPolicy:
        def changed(model: Variant, carry: Carry, batch: Batch) -> Given:
            return change(policy(model, carry, batch))

        return changed

    return wrap_policy(recipe, wrap)


def freeze_decoder_settings(config: Config) -> Changes:
    """Settings that mean to freeze the decoder for the whole run."""
    return {"train": {"freeze_encoder_steps": 0, "freeze_decoder_steps": config.train.steps}}
