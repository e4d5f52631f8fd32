"""Where a config comes from: a preset, a TOML file or a run, then ``--set``; and which of them gave each value."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeAlias

from etrm.config.describe import settings
from etrm.config.tree import Config, build, check_request, nearest
from etrm.errors import ConfigError
from etrm.override import UNSET, flat, merged, override, parse, read_toml

Tree: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """What gave a value: its kind, and the name of the preset, the file or the run folder."""

    kind: Literal["default", "preset", "file", "run", "--set"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".strip()


@dataclass(frozen=True)
class Resolved:
    """A config, and the source of each of its settings by dotted name."""

    config: Config
    sources: dict[str, Source]


def presets() -> list[str]:
    """Names of the presets that the package ships."""
    folder = resources.files("etrm") / "presets"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def load(preset: str | None = None, path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The config of :func:`resolve`."""
    return resolve(preset, path, overrides).config


def resolve(
    preset: str | None = None,
    path: Path | None = None,
    overrides: Sequence[str] = (),
    run: tuple[Path, Config] | None = None,
) -> Resolved:
    """Read a preset, a TOML file or the config of a run, apply ``section.key=value`` overrides, check the result.

    Args:
        preset: name of a preset.
        path: TOML file, which extends the preset that it names.
        overrides: settings as text, the last of a name wins.
        run: folder of a run and its config.

    Raises:
        ConfigError: an unknown preset, file, key or value, or an impossible combination.
    """
    if sum(given is not None for given in (preset, path, run)) > 1:
        raise ConfigError(
            "config.several-sources",
            "a config begins with one of a preset, a config file and a run",
            got=" and ".join(repr(str(given)) for given in (preset, path, run and run[0]) if given),
            next_step="give one of --preset, --config and RUN",
        )
    try:
        return _resolved(_layers(preset, path, run), overrides)
    except RecursionError as error:
        raise ConfigError(
            "config.too-deep",
            "the settings are nested too deeply",
            allowed="the sections that `etrm config` prints",
        ) from error


def _resolved(layers: list[tuple[Source, Tree]], overrides: Sequence[str]) -> Resolved:
    tree: Tree = {}
    sources: dict[str, Source] = {}
    for source, layer in layers:
        tree = merged(tree, layer)
        sources |= dict.fromkeys(flat(layer), source)
    for text in overrides:
        name, value = parse(text)
        # A whole section that is set, model.halt={max_steps = 4}, begins at the defaults again.
        sources = {known: source for known, source in sources.items() if not known.startswith(f"{name}.")}
        sources |= dict.fromkeys(flat({name: value}), Source("--set"))
    config = check_request(build(override(tree, tuple(overrides))))
    return Resolved(config, {name: sources.get(name, Source("default")) for name in settings()})


def _layers(
    preset: str | None, path: Path | None, run: tuple[Path, Config] | None
) -> list[tuple[Source, Tree]]:
    """What gives values, the last one first heard."""
    if run is not None:
        return [(Source("run", str(run[0])), run[1].model_dump(mode="json"))]
    if path is not None:
        tree = _unset(read_toml(path))
        extended = tree.get("preset", "")
        below = [_preset(extended, f" in {path}")] if isinstance(extended, str) and extended else []
        return [*below, (Source("file", str(path)), tree)]
    return [] if preset is None else [_preset(preset)]


def _preset(name: str, place: str = "") -> tuple[Source, Tree]:
    if name not in presets():
        raise ConfigError(
            "config.unknown-preset",
            f"unknown preset {name!r}{place}{nearest(name, presets())}",
            allowed=", ".join(presets()),
        )
    text = (resources.files("etrm") / "presets" / f"{name}.toml").read_text("utf-8")
    return Source("preset", name), tomllib.loads(text) | {"preset": name}


def _unset(tree: Tree, prefix: str = "") -> Tree:
    """The tree of a file in which the text "none" unsets what may be unset, for TOML has no null."""
    result: Tree = {}
    for name, value in tree.items():
        known = settings().get(prefix + name)
        if isinstance(value, dict):
            result[name] = _unset(value, f"{prefix}{name}.")
        elif isinstance(value, str) and value.lower() in UNSET and known is not None and known.optional:
            result[name] = None
        else:
            result[name] = value
    return result
