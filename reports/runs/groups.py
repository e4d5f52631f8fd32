"""Group runs into arms: the configs of an arm differ only in the seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etrm.config import Config
from etrm.setting_texts import flatten

Settings = dict[str, Any]


def read_settings(config: Config) -> Settings:
    """Return the settings of a config by their dotted names, as ``--set`` takes them."""
    return flatten(config.model_dump(mode="json"))


def find_differing(configs: Sequence[Config]) -> dict[str, list[Any]]:
    """Return the settings that differ between configs, each with its value in every config."""
    trees = [read_settings(config) for config in configs]
    values = {key: [tree.get(key) for tree in trees] for key in trees[0]} if trees else {}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def group_by_setting(configs: Sequence[Config]) -> list[str]:
    """Return a name for every config. Configs that differ only in the seed have the same name.

    The name is the preset or the variant of the model, then the faults, then the settings that differ, if they are
    needed to distinguish the arms.
    """
    differences = find_differing(configs)
    differences.pop("train.seed", None)
    apart = [tuple(repr(found[i]) for found in differences.values()) for i in range(len(configs))]
    short = [_short(config) for config in configs]
    if len(set(zip(short, apart, strict=True))) == len(set(short)):
        return short
    spelt = [key for key in differences if key not in ("preset", "faults")]
    return [
        ", ".join(
            [name, *(f"{key.rpartition('.')[2]} {shorten_setting(differences[key][i])}" for key in spelt)]
        )
        for i, name in enumerate(short)
    ]


def shorten_setting(value: Any) -> str:
    """Return the value of a setting as text for readers."""
    if isinstance(value, list):
        return (
            ", ".join(str(item) if isinstance(item, list) else shorten_setting(item) for item in value)
            or "none"
        )
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _short(config: Config) -> str:
    name = config.preset or config.model.variant
    return " with ".join([name, ", ".join(config.faults)]) if config.faults else name
