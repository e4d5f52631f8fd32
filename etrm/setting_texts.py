"""Settings as text: TOML files, and ``section.key=value`` on the command line.

A value on the command line is one of

- a TOML value: ``3``, ``1e-3``, ``true``, ``'text'``, ``["a", "b"]``, ``{max_steps = 4}``;
- ``none`` or ``null`` in any case, for a setting that may be left unset;
- a bare word, which needs no quotes: ``adamw``, ``runs/x``, ``rules:colours``. It is not empty, and it has only
  printable characters, none of them in :data:`SIGNIFICANT`.

Anything else is an error, so broken TOML is never taken for a text.
"""

from __future__ import annotations

import json
import shlex
import tomllib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etrm.errors import ConfigError

SIGNIFICANT = frozenset(" \"'[]{}=#\\")
"""Characters with a meaning in TOML; a text that contains one of them needs quotes."""
UNSET = ("none", "null")
"""Words, in any case, for the absence of a value. TOML has no such word."""


def override(tree: dict[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """Return a copy of a tree of settings with ``section.key=value`` overrides applied.

    Raises:
        ConfigError: an override does not have this form, or its value cannot be read.
    """
    tree = json.loads(json.dumps(tree, default=str))
    for text in overrides:
        name, value = parse(text)
        node = tree
        *parents, leaf = name.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(
                    "config.not-a-section",
                    f"{name!r}: {parent!r} is a value, not a section",
                    next_step="etrm config prints all settings by their full names",
                )
        node[leaf] = value
    return tree


def parse(text: str) -> tuple[str, Any]:
    """Return the dotted name and the value of ``section.key=value``.

    Raises:
        ConfigError: the text does not have this form, its value cannot be read, or its name is ``preset``.
    """
    dotted, equals, value = text.partition("=")
    name = dotted.strip()
    if not equals or not name:
        raise ConfigError(
            "config.unreadable-setting",
            f"cannot read the setting {text!r}",
            allowed="section.key=value",
            next_step="--set train.lr=1e-3",
        )
    if name == "preset":  # changing only the label would claim settings that the config does not have
        wanted = value.strip().strip("\"'")
        raise ConfigError(
            "config.preset-as-setting",
            "preset is not a setting, so it cannot be changed with --set",
            got=repr(text),
            allowed="the option --preset, or preset = 'NAME' in the first lines of a TOML file",
            next_step=f"--preset {wanted if is_bare_word(wanted) else 'NAME'}",
        )
    return name, _value(name, value.strip())


def merge(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree with the values of another one. Sections that both have are merged; other values are replaced."""
    result = dict(tree)
    for name, value in changes.items():
        below = result.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = merge(below, value)
        result[name] = value
    return result


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a tree of settings as dotted names and values, as ``--set`` takes them."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as a tree of settings.

    Raises:
        ConfigError: the file cannot be read, or is not valid TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(
            "config.unreadable-file",
            f"cannot read the config file {path}",
            got=error.strerror or str(error),
            next_step="name a file that exists and that you may read",
        ) from error
    except (ValueError, RecursionError) as error:  # broken TOML or UTF-8, or a number of over 4300 digits
        raise ConfigError(
            "config.not-toml",
            f"{path} is not valid TOML",
            got=str(error),
            next_step="correct the file at that line; `etrm config` prints all settings and their values",
        ) from error


def _value(name: str, text: str) -> Any:
    """Parse the value in the text after ``name=``."""
    if text.lower() in UNSET:
        return None
    try:
        parsed = tomllib.loads(f"v = {text}")
        if len(parsed) == 1:
            tomllib.loads(
                f"v = [{text}]"
            )  # fails if the text has a comment, which would otherwise be dropped silently
    except (ValueError, RecursionError) as error:  # not TOML, or too large for the TOML parser
        if is_bare_word(text):
            return text
        raise ConfigError(
            "config.unreadable-value",
            f"cannot read the value of {name!r}",
            got=repr(text) if text else "nothing",
            allowed="a TOML value such as 3, true, 'some text' or ['a', 'b'], or a word without spaces, quotes, "
            "brackets, braces, =, # and \\",
            next_step=_as_it_may_be_meant(name, text),
        ) from error
    if len(parsed) > 1:
        raise ConfigError(
            "config.several-lines",
            "the value of a setting is one line of TOML",
            got=repr(text),
            allowed="one value",
            next_step="give --set once for every key",
        )
    return parsed["v"]


def is_bare_word(text: str) -> bool:
    """Return whether a text that is not a TOML value may be written without quotes on the command line."""
    return bool(text) and text.isprintable() and not SIGNIFICANT & set(text)


def _as_it_may_be_meant(name: str, text: str) -> str:
    """Return the option as the user probably meant it: the value quoted for TOML and for the shell."""
    if text.startswith(("[", "{")):
        example = '["a", "b"]' if text.startswith("[") else "{a = 1, b = 2}"
        return f"close every quote and bracket, e.g. --set {shlex.quote(f'{name}={example}')}"
    if any(unicodedata.category(character) == "Cs" for character in name + text):
        return "write the setting in UTF-8"
    return f"--set {shlex.quote(f'{name}={quote(text.strip(chr(34) + chr(39)))}')}"


def to_toml(value: Any) -> str:
    """Return a value of the resolved config (text, number, boolean, list, none) as TOML."""
    if value is None:
        return quote(UNSET[0])
    if isinstance(value, list):
        return f"[{', '.join(map(to_toml, value))}]"
    if isinstance(value, str):
        return quote(value)
    return str(value).lower() if isinstance(value, bool) else repr(value)


def quote(text: str) -> str:
    """Return a text as a TOML string, or None if the text is not valid Unicode (it has a lone surrogate)."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
