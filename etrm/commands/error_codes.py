"""Every error code with its class, message and next step, read from the source of etrm, reports and cli."""

from __future__ import annotations

import re
from pathlib import Path

import etrm
import reports
from diagnostics.reference.error_catalog import Site, read_sites

CODE = re.compile(r"[a-z]+\.[a-z0-9]+(-[a-z0-9]+)*")
"""An area and a kind, such as config.unknown-key."""
_MAKERS = {
    "refused": "ConfigError",
    "_Problem": "ConfigError",
    "refuse_adapter": "ExtensionError",
    "call_adapter": "ExtensionError",
    "Refusal": "ExtensionError",
}
"""Functions and records that become an error -> the class of the error."""


def sites() -> list[Site]:
    """Every place that makes an error with a code, by code."""
    root = Path(etrm.__path__[0]).parent
    packages = [Path(folder) for package in (etrm, reports) for folder in package.__path__]
    files = [*(file for package in packages for file in package.rglob("*.py")), root / "cli.py"]
    return read_sites(files, root, _kind_of)


def _kind_of(name: str) -> str | None:
    return _MAKERS.get(name) or (name if name.endswith("Error") and not name.startswith("_") else None)
