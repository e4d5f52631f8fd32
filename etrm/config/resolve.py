"""Resolve a config from a preset, a TOML file or a run and ``--set``, and record the origin of each value."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeAlias

from etrm.config.code_names import named_code
from etrm.config.describe import list_settings
from etrm.config.tree import Config, build, check_request, suggest_nearest
from etrm.errors import ConfigError
from etrm.extensions import allow
from etrm.setting_texts import UNSET, flatten, merge, override, parse, read_toml

Tree: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """The origin of a value: its kind, and the name of the preset, the file or the run folder."""

    kind: Literal["default", "preset", "file", "run", "--set"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".strip()


@dataclass(frozen=True)
class Resolved:
    """A config, and the origin of each of its settings by dotted name."""

    config: Config
    sources: dict[str, Source]


def list_presets() -> list[str]:
    """Return the names of the presets."""
    folder = resources.files("etrm") / "presets"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def load(preset: str | None = None, path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Return the config of :func:`resolve`."""
    return resolve(preset, path, overrides).config


def resolve(preset: str | None = None, path: Path | None = None, overrides: Sequence[str] = ()) -> Resolved:
    """Read a preset or a TOML file, apply ``section.key=value`` overrides, and check the result.

    Code that the file or the overrides name may run from now on, see :mod:`etrm.extensions.permission`.

    Args:
        preset: the name of a preset.
        path: the path of a TOML file, which extends the preset that it names.
        overrides: settings as text; if one is given twice, the last one wins.

    Raises:
        ConfigError: a preset, file, key or value is unknown, or a combination is impossible.
    """
    if preset is not None and path is not None:
        raise ConfigError(
            "config.preset-and-file",
            "a preset and a config file were given together",
            allowed="--preset or --config",
            next_step="write preset = 'NAME' in the first line of the file, which then extends that preset",
        )
    try:
        layers = _from_file(path) if path is not None else [] if preset is None else [_preset(preset)]
        found = _resolved(layers, overrides)
        _allow(found.config.model_dump())
        return found
    except RecursionError as error:  # a dotted key may have thousands of parts
        raise ConfigError(
            "config.too-deep",
            "the settings are nested too deeply",
            allowed="names of at most three parts, such as model.halt.max_steps",
            next_step="etrm config, which prints every setting",
        ) from error


def resolve_run(folder: Path, config: Config, overrides: Sequence[str] = ()) -> Resolved:
    """Return the config of a run with ``section.key=value`` overrides applied and checked.

    Code that the overrides name may run from now on; what the run itself names may not, unless it was named before.

    Args:
        folder: the run folder.
        config: the config that the folder holds.
        overrides: settings as text; if one is given twice, the last one wins.

    Raises:
        ConfigError: a key or value is unknown, or a combination is impossible.
    """
    found = _resolved([(Source("run", str(folder)), config.model_dump(mode="json"))], overrides)
    _allow(dict(parse(text) for text in overrides))
    return found


def _allow(settings: Tree) -> None:
    for name in named_code(settings):
        allow(name)


def _resolved(layers: Sequence[tuple[Source, Tree]], overrides: Sequence[str]) -> Resolved:
    """Return the config of some layers, each applied on top of the one before it, then the overrides."""
    tree: Tree = {}
    sources: dict[str, Source] = {}
    for source, layer in layers:
        tree = merge(tree, layer)
        sources |= dict.fromkeys(flatten(layer), source)
    for text in overrides:
        name, value = parse(text)
        # Setting a whole section, model.halt={max_steps = 4}, resets its other settings to the defaults.
        sources = {known: source for known, source in sources.items() if not known.startswith(f"{name}.")}
        sources |= dict.fromkeys(flatten({name: value}), Source("--set"))
    config = check_request(build(override(tree, tuple(overrides))))
    return Resolved(config, {name: sources.get(name, Source("default")) for name in list_settings()})


def _from_file(path: Path) -> list[tuple[Source, Tree]]:
    """Return the layers of a TOML file: the preset that it extends, if any, then the file."""
    tree = _unset(read_toml(path))
    extended = tree.get("preset")
    below = [_preset(extended, f" in {path}")] if isinstance(extended, str) and extended else []
    return [*below, (Source("file", str(path)), tree)]


def _preset(name: str, place: str = "") -> tuple[Source, Tree]:
    if name not in list_presets():
        raise ConfigError(
            "config.unknown-preset",
            f"unknown preset {name!r}{place}{suggest_nearest(name, list_presets())}",
            allowed=", ".join(list_presets()),
            next_step="etrm config --preset NAME prints the settings of a preset",
        )
    text = (resources.files("etrm") / "presets" / f"{name}.toml").read_text("utf-8")
    return Source("preset", name), tomllib.loads(text) | {"preset": name}


def _unset(tree: Tree, prefix: str = "") -> Tree:
    """Replace the text "none" of optional settings by None, because TOML has no null."""
    result: Tree = {}
    for name, value in tree.items():
        known = list_settings().get(prefix + name)
        if isinstance(value, dict):
            result[name] = _unset(value, f"{prefix}{name}.")
        elif isinstance(value, str) and value.lower() in UNSET and known is not None and known.optional:
            result[name] = None
        else:
            result[name] = value
    return result
