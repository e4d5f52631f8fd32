"""Settings as text: TOML files, and ``section.key=value`` on the command line."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from etrm.errors import ConfigError


def override(tree: dict[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """A copy of a plain tree with ``section.key=value`` settings put in; values are read as TOML.

    Raises:
        ConfigError: an override is not of that form.
    """
    tree = json.loads(json.dumps(tree, default=str))
    for text in overrides:
        dotted, equals, value = text.partition("=")
        if not equals or not dotted.strip():
            raise ConfigError(
                "config.unreadable-setting",
                f"cannot read the setting {text!r}",
                allowed="section.key=value",
                next_step="--set train.lr=1e-3",
            )
        node = tree
        *parents, leaf = dotted.strip().split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError("config.not-a-section", f"{dotted!r}: {parent!r} is a value, not a section")
        node[leaf] = _value(value.strip())
    return tree


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings as dotted names, the way ``--set`` takes them."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a plain tree.

    Raises:
        ConfigError: it cannot be read, or is not valid TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(
            "config.unreadable-file", f"cannot read the config file {path}", got=error.strerror or str(error)
        ) from error
    except (ValueError, RecursionError) as error:  # broken TOML or UTF-8, or a number of over 4300 digits
        raise ConfigError("config.not-toml", f"{path} is not valid TOML", got=str(error)) from error


def _value(text: str) -> Any:
    if text.lower() in ("none", "null"):
        return None
    try:
        parsed = tomllib.loads(f"v = {text}")
    except (ValueError, RecursionError):  # a bare word, or nothing that a TOML parser can hold
        return text
    if len(parsed) > 1:
        raise ConfigError(
            "config.several-lines",
            "a setting holds several lines of TOML",
            got=repr(text),
            allowed="one value",
            next_step="give --set once for every key",
        )
    return parsed["v"]
