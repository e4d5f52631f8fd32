"""What the shell offers when a user presses the tab key: presets, faults, settings with their values, and folders.

A shell starts the command for each completion, so nothing here imports torch.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import etrm

DEEPEST = 4
"""Levels of folders below the first one that are searched for runs, so that a large folder is not read in full."""
RUN_FILE, RESULT_FILE = "config.json", "result.json"
Offer = tuple[str, str]
"""A word and its description, which some shells show."""


def complete_preset(incomplete: str) -> list[str]:
    """Return the presets that begin with ``incomplete``."""
    from etrm.config import list_presets

    return [name for name in list_presets() if name.startswith(incomplete)]


def complete_fault(incomplete: str) -> list[Offer]:
    """Return the faults that begin with ``incomplete``, with what they do."""
    return [(name, what) for name, what in read_faults() if name.startswith(incomplete)]


def read_faults() -> Iterator[Offer]:
    """Yield the name and the description of every fault, read from the source because its import takes seconds."""
    folder = Path(etrm.__path__[0]) / "training" / "faults"
    for file in sorted(folder.glob("*_faults.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Fault":
                name, what = (part.value for part in node.args[:2] if isinstance(part, ast.Constant))
                yield str(name), str(what)


def complete_setting(incomplete: str) -> list[Offer]:
    """Return ``KEY=`` for the settings that begin with ``incomplete``, or ``KEY=VALUE`` once the key is complete."""
    from etrm.config import list_settings

    settings = list_settings()
    key, equals, value = incomplete.partition("=")
    if not equals:
        return [(f"{name}=", one.description) for name, one in settings.items() if name.startswith(key)]
    if key not in settings:
        return []
    one = settings[key]
    words = ["true", "false"] if isinstance(one.default, bool) else [*one.choices]
    words += ["none"] if one.optional else []
    return [(f"{key}={word}", "") for word in words if word.startswith(value)]


def complete_run(incomplete: str) -> list[str]:
    """Return the run folders that begin with ``incomplete``, and the folders that lead to others."""
    return _complete_folder(incomplete, RUN_FILE)


def complete_investigation(incomplete: str) -> list[str]:
    """Return the folders of investigations that begin with ``incomplete``, and the folders that lead to others."""
    return _complete_folder(incomplete, RESULT_FILE)


def _complete_folder(incomplete: str, marker: str) -> list[str]:
    """Return folders with the file ``marker``; where there are none, the folders of the next level with a slash."""
    parent = Path(incomplete).parent if "/" in incomplete else Path("runs")
    found = [str(folder) for folder in _find_marked(parent, marker)]
    begun = [name for name in found if name.startswith(incomplete)]
    return begun or [
        f"{name}/" for name in _list_folders(Path(incomplete).parent) if name.startswith(incomplete)
    ]


def _find_marked(root: Path, marker: str) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        below[:] = sorted(below) if len(Path(folder).relative_to(root).parts) < DEEPEST else []
        if marker in files:
            yield Path(folder)


def _list_folders(parent: Path) -> Iterable[str]:
    if not parent.is_dir():
        return ()
    return sorted(str(path) for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))


def complete_column(incomplete: str) -> list[str]:
    """Return the columns by which `etrm runs` sorts."""
    from reports.runs.listing import SORTS

    return [name for name in SORTS if name.startswith(incomplete)]


def choose_from(*words: str) -> Callable[[str], list[str]]:
    """Return a completion of fixed words."""

    def complete_word(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete_word
