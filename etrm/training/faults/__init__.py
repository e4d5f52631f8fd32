"""Faults that can be injected: each really happened, or is a variant of one that did.

A fault is a function from recipe to recipe. Faults serve as positive controls, as documentation, and in the
fault benchmark. The investigation never learns which fault is active; it has to find it by its effect.
"""

from __future__ import annotations

import difflib
from dataclasses import replace

from etrm.config import Config, with_interventions
from etrm.errors import ConfigError
from etrm.extensions import ExtensionPoint, describe, in_users_code, registered
from etrm.training.faults import (
    data_faults,
    decoder_faults,
    dynamics_faults,
    encoder_faults,
    evaluator_faults,
    interface_faults,
    symbolic_faults,
)
from etrm.training.faults.seam import Fault
from etrm.training.recipe import Recipe
from etrm.training.slots import Draw

__all__ = ["FAULTS", "Fault", "apply_faults", "build_loader", "build_recipe", "find", "find_all", "is_listed"]

FAULTS = {
    fault.name: fault
    for group in (
        encoder_faults,
        decoder_faults,
        interface_faults,
        dynamics_faults,
        data_faults,
        evaluator_faults,
        symbolic_faults,
    )
    for fault in group.FAULTS
}
RENAMED = {"python-loop-predicates": "scalar-read"}
"""Names of faults by the names that earlier versions, which had no symbolic solver, wrote into run folders."""
EXTENSION_POINT: ExtensionPoint[Fault] = ExtensionPoint(
    "faults",
    "fault",
    "etrm.training.faults.Fault(name, what, root_cause, seen, apply), apply a function from Recipe to Recipe",
    lambda found: isinstance(found, Fault) and callable(found.apply),
)


def build_recipe(config: Config) -> Recipe:
    """The recipe of a config: its faults applied in order, and its interventions on top.

    Raises:
        ConfigError: a fault that is not known, or cannot act on the model.
        ExtensionError: a fault from outside cannot be loaded, raises, or returns no recipe.
    """
    recipe = Recipe()
    for name, fault in zip(config.faults, find_all(config), strict=True):
        fault.check(config)
        recipe = _applied(name, fault, recipe)
    if not config.interventions:
        return recipe
    configure = recipe.configure
    return replace(recipe, configure=lambda given: with_interventions(configure(given)))


def _applied(name: str, fault: Fault, recipe: Recipe) -> Recipe:
    if is_listed(name):
        return fault.apply(recipe)
    with in_users_code(name):
        changed: object = fault.apply(recipe)
    if not isinstance(changed, Recipe):
        raise EXTENSION_POINT.wrong(name, f"apply returns {describe(changed)}", "apply returns a Recipe")
    return changed


def build_loader(config: Config) -> Draw:
    """The loader of a config; a worker process builds its own with this."""
    return build_recipe(config).draw


def apply_faults(config: Config) -> Config:
    """The settings that a run of a config really uses, faults and interventions included.

    Raises:
        ConfigError: a fault that is not known, or cannot act on the model.
    """
    return build_recipe(config).configure(config)


def is_listed(name: str) -> bool:
    """Whether a name is in the list of faults; code from outside is not."""
    return name in FAULTS


def find_all(config: Config) -> list[Fault]:
    """The faults that a config names, by their names now or, of a recursive model, of an earlier version.

    Raises:
        ConfigError: see :func:`find`.
        ExtensionError: likewise.
    """
    earlier = RENAMED if config.model.recursive else {}
    return [find(earlier.get(name, name)) for name in config.faults]


def find(name: str) -> Fault:
    """The fault of that name: one of ours, or code from outside.

    Raises:
        ConfigError: there is none; names the nearest.
        ExtensionError: its code cannot be loaded, or is not a fault.
    """
    if name not in FAULTS and EXTENSION_POINT.takes(name):
        return EXTENSION_POINT.load(name)
    if name not in FAULTS:
        close = difflib.get_close_matches(name, FAULTS, n=1, cutoff=0.4)
        raise ConfigError(
            "fault.unknown",
            f"unknown fault {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
            allowed=", ".join((*FAULTS, *registered(EXTENSION_POINT.kind))),
            next_step="etrm faults lists them; a fault of yours is named as my_code.py:MY_FAULT",
        )
    return FAULTS[name]
