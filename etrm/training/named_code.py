"""The external code of a run, as objects, for the record of the run and for cache keys."""

from __future__ import annotations

from dataclasses import fields

from diagnostics import Rule
from etrm.config import Config
from etrm.data.sources import find_source
from etrm.extensions import source_digest
from etrm.model.construct import VARIANTS, find_variant
from etrm.model.encoders import ENCODERS, find_encoder
from etrm.training.faults import Fault, apply_faults, build_recipe, find, find_all, is_listed
from etrm.training.monitoring.own_rules import find_rule


def objects(config: Config) -> dict[str, object]:
    """Find the external objects that the settings of a config name, by name.

    Raises:
        ConfigError: a fault is not known.
        ExtensionError: code cannot be loaded, or has the wrong type for its setting.
    """
    used = apply_faults(config)
    found: dict[str, object] = {name: find(name) for name in config.faults if not is_listed(name)}
    if used.model.encoder.kind not in ENCODERS:
        found[used.model.encoder.kind] = find_encoder(used.model.encoder.kind)
    if used.model.variant not in VARIANTS:
        found[used.model.variant] = find_variant(used.model.variant)
    for name in (used.data.source, used.evaluate.source):
        if (source := find_source(name)) is not None:
            found[name] = source
    return found | {name: find_rule(name) for name in used.monitor.rules}


def digests(config: Config) -> dict[str, str]:
    """SHA-256 of the source of each object from outside, by name, for the record of a run."""
    return {name: source_digest(_code(thing)) for name, thing in objects(config).items()}


def seams(config: Config) -> list[object]:
    """The functions and classes through which outside code can enter a run of this config.

    Raises:
        ConfigError: a fault is not known.
        ExtensionError: see :func:`objects`.
    """
    recipe = build_recipe(config)
    return [
        *(fault.apply for fault in find_all(config)),
        *(getattr(recipe, field.name) for field in fields(recipe)),
        *map(_code, objects(config).values()),
        find_encoder(apply_faults(config).model.encoder.kind),
    ]


def _code(thing: object) -> object:
    """What an object runs: the function of a fault or a rule, otherwise the object itself."""
    if isinstance(thing, Fault):
        return thing.apply
    return thing.check if isinstance(thing, Rule) else thing
