"""Loads an object of a user's code by name: a file, a module, or an entry point of an installed package."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from diagnostics.errors import UnknownName


def load_object(spec: str, group: str) -> Any:
    """The object that `spec` names. An exception of the code that is loaded reaches the caller unchanged.

    Args:
        spec: `path/file.py:NAME`, `package.module:NAME`, or the name of an entry point.
        group: Group of the entry points.

    Raises:
        UnknownName: The file, the module, the name in it or the entry point does not exist.
    """
    source, colon, name = spec.rpartition(":")
    if not colon:
        return _load_entry_point(spec, group)
    module = import_file(Path(source)) if source.endswith(".py") else _import_module(source, spec)
    if not hasattr(module, name):
        names = [key for key in vars(module) if not key.startswith("_")]
        raise UnknownName(
            "load.no-name",
            "{spec}: there is no {got!r} in {source}; it has {allowed}",
            spec=spec,
            got=name,
            source=source,
            allowed=", ".join(names) or "nothing",
        )
    return getattr(module, name)


def import_file(path: Path) -> ModuleType:
    """The file as a module, imported once; its folder joins the import path, so that it can import its neighbours.

    Raises:
        UnknownName: The file does not exist.
    """
    full = path.expanduser().resolve()
    if not full.is_file():
        raise UnknownName("load.no-file", "there is no file {got}", got=str(path))
    name = f"loaded_{abs(hash(str(full))):x}_{full.stem}"
    if name in sys.modules:
        return sys.modules[name]
    found = spec_from_file_location(name, full)
    assert found is not None  # the name ends in .py
    assert found.loader is not None
    module = module_from_spec(found)
    sys.modules[name] = module  # dataclasses and pickle look classes up there
    if str(full.parent) not in sys.path:
        sys.path.insert(0, str(full.parent))
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str, spec: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # something that the module imports is missing
        raise UnknownName(
            "load.no-module", "{spec}: there is no module {got!r}", spec=spec, got=error.name
        ) from error


def _load_entry_point(name: str, group: str) -> Any:
    known = {point.name: point for point in entry_points(group=group)}
    if name not in known:
        raise UnknownName(
            "load.no-entry-point",
            "{got!r} is neither FILE.py:NAME nor MODULE:NAME, and no entry point of {group}: {allowed}",
            got=name,
            group=group,
            allowed=", ".join(known) or "there are none",
        )
    return known[name].load()
