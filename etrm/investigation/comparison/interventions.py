"""Settings that apply after everything else, faults included: how a treatment changes a config that has a fault."""

from __future__ import annotations

import json
from typing import Any

from etrm.config import Config, with_settings
from etrm.config.tree import Changes
from etrm.setting_texts import flatten, is_bare_word


def with_interventions(config: Config, changes: Changes) -> Config:
    """The config with some settings added to those that apply after everything else.

    Raises:
        ConfigError: the resulting config is refused.
    """
    return with_settings(config, interventions=(*config.interventions, *as_texts(changes)))


def as_texts(changes: Changes) -> tuple[str, ...]:
    """Settings as text, ``section.key=value``, the form in which a config keeps its interventions."""
    return tuple(f"{name}={_as_text(value)}" for name, value in flatten(dict(changes)).items())


def round_rate(rate: float) -> float:
    """A rate to six digits, as a person would write it."""
    return float(f"{rate:.6g}")


def _as_text(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) and is_bare_word(value) else json.dumps(value)
