"""Read the settings of a published checkpoint from the JSON or YAML file next to it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from etrm.errors import CheckpointError

NAMES = ("all_config.yaml", "config.json")
"""Names of the settings files of the published code and of our parity arrays."""
_LINE = re.compile(r"^\s*(\w+):\s+([^#\s].*?)\s*(?:#.*)?$")


def find_settings(file: Path) -> Path | None:
    """Return the settings file next to a checkpoint ``NAME``: ``NAME.json`` if it exists, else one of :data:`NAMES`."""
    places = [file.with_name(f"{file.stem}.json"), *(file.with_name(name) for name in NAMES)]
    return next((place for place in places if place != file and place.is_file()), None)


def read_settings(path: Path) -> dict[str, Any]:
    """Read the names and values of a ``.json``, ``.yaml`` or ``.yml`` file from all of its sections.

    In YAML only lines of the form ``name: value`` are read, which is how the published code writes settings. A name
    that occurs twice with different values is left out, because its meaning is unclear.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        text = path.read_text("utf-8")
        pairs = _json_leaves(json.loads(text)) if path.suffix == ".json" else _yaml_leaves(text)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            "import.unreadable-settings",
            f"the settings file {path} cannot be read",
            got=f"{type(error).__name__}: {error}",
            allowed="a .json, .yaml or .yml file of the published code's settings",
            next_step="correct the file, or leave it out",
        ) from error
    found: dict[str, Any] = {}
    unclear = set()
    for name, value in pairs:
        if found.setdefault(name, value) != value:
            unclear.add(name)
    return {name: value for name, value in found.items() if name not in unclear}


def _json_leaves(tree: Any) -> list[tuple[str, Any]]:
    if not isinstance(tree, dict):
        raise ValueError(f"a {type(tree).__name__}, not an object")
    found: list[tuple[str, Any]] = []
    for name, value in tree.items():
        if isinstance(value, dict):
            found += _json_leaves(value)
        elif not isinstance(value, list):
            found.append((name, value))
    return found


def _yaml_leaves(text: str) -> list[tuple[str, Any]]:
    matches = (_LINE.match(line) for line in text.splitlines())
    return [(match[1], _scalar(match[2])) for match in matches if match]


def _scalar(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text.strip("'\"")
