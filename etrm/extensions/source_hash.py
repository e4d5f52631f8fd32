"""The hash of code from outside the packages.

A fault, a function of a recipe or an encoder can be defined in a user's file. The code that such an object runs is
found from the object itself: its own file, the functions that it encloses, and the user's other files that it uses.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

_OURS = tuple(Path(__file__).resolve().parents[2] / name for name in ("etrm", "diagnostics"))
_INSTALLED = tuple(
    Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")
)

_PACKAGES = {"site-packages", "dist-packages"}
"""Folders of installed packages in any environment."""


def source_digest(thing: object) -> str:
    """Return one SHA-256 over :func:`outside_digests` of an object; empty for our own code."""
    found = outside_digests([thing])
    return hashlib.sha256("\n".join(found).encode()).hexdigest() if found else ""


def outside_digests(things: Iterable[object]) -> list[str]:
    """Return the sorted SHA-256 hashes of all sources outside the packages that some functions and classes use.

    This follows enclosed and decorated functions, arguments of partials, methods, base classes, and imports from other
    files of the user. Installed packages such as torch are not followed, but an object from a plugin is read.
    """
    found: set[str] = set()
    waiting = list(things)
    given = {id(thing) for thing in waiting}
    seen: dict[int, object] = {}  # keeps each object alive, so that its id is not reused
    resolve = cache(_resolve)  # for this call alone: a user may move a file before the next one
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen[id(thing)] = thing
        waiting += _enclosed(thing)
        file = _file(thing, resolve)
        if file is None or _within(file, _OURS):
            continue
        if _is_installed(file):
            found |= {_digest(file, thing)} if id(thing) in given else set()
            continue
        found.add(_digest(file, thing))
        waiting += [other for other in _namespace(thing).values() if issubclass(type(other), _NAMED)]
    return sorted(found)


_NAMED = FunctionType | type | ModuleType


def _enclosed(thing: object) -> Iterator[object]:
    """Yield the objects that a callable refers to."""
    if isinstance(thing, partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, MethodType):
        yield from (thing.__func__, type(thing.__self__))
    elif isinstance(thing, FunctionType):
        yield from (thing.__defaults__ or ()) + tuple((thing.__kwdefaults__ or {}).values())
        yield from (cell.cell_contents for cell in thing.__closure__ or () if _filled(cell))
        yield getattr(thing, "__wrapped__", None)
    elif isinstance(thing, type):
        yield from thing.__bases__
        yield from (getattr(member, "__func__", member) for member in vars(thing).values())
    elif not isinstance(thing, ModuleType) and callable(thing):
        yield type(thing)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  the only way to find out whether a cell is empty
    except ValueError:
        return False
    return True


def _resolve(name: str) -> Path:
    return Path(name).resolve()


def _file(thing: object, resolve: Callable[[str], Path]) -> Path | None:
    """Return the file of a function, class or module; None if it has none, like a builtin.

    The file of a function may not exist: a cell of a notebook has a name but no file.
    """
    written = resolve(thing.__code__.co_filename) if isinstance(thing, FunctionType) else None
    if written is not None and written.is_file():
        return written
    name = _namespace(thing).get("__file__")  # a function that a decorator generated has no file of its own
    return resolve(name) if name else written


def _namespace(thing: object) -> Mapping[str, Any]:
    """Return the namespace of the module of a function, class or module."""
    if isinstance(thing, FunctionType):
        return thing.__globals__
    module = sys.modules.get(thing.__module__) if isinstance(thing, type) else thing
    return vars(module) if isinstance(module, ModuleType) else {}


def _within(file: Path, folders: Iterable[Path]) -> bool:
    return any(file.parts[: len(folder.parts)] == folder.parts for folder in folders)


def _is_installed(file: Path) -> bool:
    """Return whether a file belongs to a package that is installed here, or in another environment that this one uses.

    An environment that was made with ``--system-site-packages`` has torch in a folder outside its own.
    """
    return _within(file, _INSTALLED) or not _PACKAGES.isdisjoint(file.parts)


def _digest(file: Path, thing: object) -> str:
    """Return the hash of an object's file, or of the object alone if its file cannot be read, as in a notebook."""
    content = file.read_bytes() if file.is_file() else _text(thing).encode()
    return hashlib.sha256(file.name.encode() + b"\0" + content).hexdigest()


def _text(thing: object) -> str:
    try:
        return inspect.getsource(thing)  # type: ignore[arg-type]  # raises TypeError for objects without source
    except (OSError, TypeError):
        code = getattr(thing, "__code__", None)  # typed at a prompt, so there is no source
        return repr(thing) if code is None else repr((code.co_code, code.co_names, code.co_consts))
