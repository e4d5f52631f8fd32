"""The model of a config: one of the variants of this package, or code from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from etrm.config import SIDE, ModelConfig
from etrm.extensions import ExtensionPoint, describe, in_users_code
from etrm.model.recursive import POLICIES, RecursiveModel
from etrm.model.symbolic_variant import SymbolicVariant
from etrm.model.variant import Variant


class VariantFactory(Protocol):
    """A factory of models: a subclass of :class:`etrm.model.variant.Variant`, or a function that returns one."""

    def __call__(self, config: ModelConfig, *, puzzles: int, side: int) -> Variant:
        """Build the model of a model section.

        Args:
            config: the settings of the model.
            puzzles: the number of rows of the table of task ids, for a variant that has one.
            side: the side of the canvas.
        """
        ...


VARIANTS: Mapping[str, VariantFactory] = {
    **dict.fromkeys(POLICIES, RecursiveModel),
    "symbolic": SymbolicVariant,
}
EXTENSION_POINT: ExtensionPoint[VariantFactory] = ExtensionPoint(
    "variants",
    "model variant",
    "a subclass of etrm.model.variant.Variant, such as one of RecursiveModel; it is called with (config, puzzles=..., "
    "side=...)",
    callable,
)


def find_variant(name: str) -> VariantFactory:
    """Find the factory of a model variant: a built-in one, or code from outside.

    Raises:
        ExtensionError: see :meth:`etrm.extensions.ExtensionPoint.find`.
    """
    return EXTENSION_POINT.find(name, VARIANTS)


def build_variant(config: ModelConfig, *, puzzles: int = 0, side: int = SIDE) -> Variant:
    """The model of a model section, on the CPU, from the global random state.

    Raises:
        ExtensionError: code from outside cannot be loaded, raises, or makes something else than a model.
    """
    factory = find_variant(config.variant)
    if config.variant in VARIANTS:
        return factory(config, puzzles=puzzles, side=side)
    with in_users_code(config.variant):
        model = factory(config, puzzles=puzzles, side=side)
    if not isinstance(model, Variant):
        raise EXTENSION_POINT.wrong(config.variant, f"it makes {describe(model)}")
    if type(model).step is Variant.step and type(model).forward is Variant.forward:
        expected = "a method step(carry, batch, context, minimum=None), as that of RecursiveModel"
        raise EXTENSION_POINT.wrong(
            config.variant, "a model that implements neither step nor forward", expected
        )
    missing = [name for name in Variant.REQUIRED if not hasattr(model, name)]
    if missing:
        raise EXTENSION_POINT.wrong(
            config.variant, f"a model without {', '.join(missing)}", "the attributes that Variant documents"
        )
    owned = {
        id(p) for part in (model.core, model.encoder, model.puzzle_table) if part for p in part.parameters()
    }
    strays = [name for name, parameter in model.named_parameters() if id(parameter) not in owned]
    if strays:
        raise EXTENSION_POINT.wrong(
            config.variant,
            f"parameters outside them: {', '.join(strays[:5])}",
            "every parameter in core, encoder or puzzle_table, which are what is trained",
        )
    return model
