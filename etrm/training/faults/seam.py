"""The type of a fault, and the ways in which one changes a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from etrm.batch import Batch
from etrm.config import Changes, Config, with_settings
from etrm.config.model import SYMBOLIC
from etrm.data import Episodes
from etrm.errors import ConfigError
from etrm.model.act import Carry
from etrm.model.variant import ContextPolicy, Given, Variant
from etrm.training.recipe import Recipe

Models: TypeAlias = Literal["any", "recursive", "symbolic"]


@dataclass(frozen=True)
class Fault:
    """A named fault.

    Attributes:
        name: the name for ``--inject``.
        what: a sentence about what it does.
        root_cause: the hypothesis that it should validate; ``cost`` and ``halting`` are findings of no
            hypothesis.
        seen: the document in which it was seen; docs/references.md lists the titles.
        apply: a function from a recipe to the recipe with the fault.
        models: the models that it can act on; any other one is refused.
    """

    name: str
    what: str
    root_cause: str
    seen: str
    apply: Callable[[Recipe], Recipe]
    models: Models = "any"

    def check(self, config: Config) -> None:
        """Refuse a model on which the fault cannot act, so that no injected fault does nothing.

        Raises:
            ConfigError: the model is such a one.
        """
        variant = config.model.variant
        if self.models == "symbolic" and config.model.recursive:
            raise ConfigError(
                "fault.needs-symbolic",
                f"the fault {self.name} acts on the symbolic solver alone",
                got=f"model.variant {variant!r}",
                allowed=f"model.variant {SYMBOLIC!r}",
                next_step=f"--preset symbolic-rules --inject {self.name}",
            )
        if self.models == "recursive" and not config.model.recursive:
            raise ConfigError(
                "fault.needs-recursive",
                f"the fault {self.name} does not act on the symbolic solver, which has no recursive core",
                got=f"model.variant {variant!r}",
                allowed="another model.variant",
                next_step="etrm faults lists what each fault acts on",
            )


def change_settings(recipe: Recipe, settings: Callable[[Config], Changes]) -> Recipe:
    """Return the recipe with some settings changed, as a function of the config."""

    def configure(config: Config) -> Config:
        config = recipe.configure(config)
        return with_settings(config, **settings(config))

    return replace(recipe, configure=configure)


def change_model(recipe: Recipe, change: Callable[[Variant], None]) -> Recipe:
    """Return the recipe with a change to the model after it is built."""

    def build(config: Config, episodes: Episodes) -> Variant:
        model = recipe.build_model(config, episodes)
        change(model)
        return model

    return replace(recipe, build_model=build)


def wrap_policy(recipe: Recipe, wrap: Callable[[ContextPolicy], ContextPolicy]) -> Recipe:
    """Return the recipe with its context policy wrapped; a TRM, which has no encoder, stays unchanged."""

    def change(model: Variant) -> None:
        if model.encoder is not None:
            model.context_policy = wrap(model.context_policy)

    return change_model(recipe, change)


def change_context(recipe: Recipe, change: Callable[[Given], Given]) -> Recipe:
    """Return the recipe with a change between the encoder and the decoder."""

    def wrap(policy: ContextPolicy) -> ContextPolicy:
        def changed(model: Variant, carry: Carry, batch: Batch) -> Given:
            return change(policy(model, carry, batch))

        return changed

    return wrap_policy(recipe, wrap)


def freeze_decoder_settings(config: Config) -> Changes:
    """Return settings that freeze the decoder for the whole run."""
    return {"train": {"freeze_encoder_steps": 0, "freeze_decoder_steps": config.train.steps}}
