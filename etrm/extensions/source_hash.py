"""The hash of code from outside the packages.

A fault, a function of a recipe or an encoder may stand in a file of the user's. What such a thing runs is found from
the thing itself: its own file, the functions that it encloses, and the user's other files that it refers to.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

_OURS = tuple(Path(__file__).resolve().parents[2] / name for name in ("etrm", "diagnostics"))
_INSTALLED = tuple(
    Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


def source_digest(thing: object) -> str:
    """One SHA-256 for :func:`outside_digests` of a thing, for a record of it; empty for our own code."""
    found = outside_digests([thing])
    return hashlib.sha256("\n".join(found).encode()).hexdigest() if found else ""


def outside_digests(things: Iterable[object]) -> list[str]:
    """SHA-256 of every source outside the packages that some functions and classes are made of, sorted.

    Followed are enclosed and decorated functions, arguments of partials, methods, base classes, and what a file
    takes from other files of the user's. What is installed (torch, say) is not followed, but a plugin that is itself
    one of the things is read.
    """
    found: set[str] = set()
    waiting = list(things)
    given = {id(thing) for thing in waiting}
    seen: dict[int, object] = {}  # keeps each thing alive, so that no other takes its id
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen[id(thing)] = thing
        waiting += _enclosed(thing)
        file = _file(thing)
        if file is None or _within(file, _OURS):
            continue
        if _within(file, _INSTALLED):
            found |= {_digest(file, thing)} if id(thing) in given else set()
            continue
        found.add(_digest(file, thing))
        waiting += [other for other in _namespace(thing).values() if isinstance(other, _NAMED)]
    return sorted(found)


_NAMED = FunctionType | type | ModuleType


def _enclosed(thing: object) -> Iterator[object]:
    """What a callable carries with it."""
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
        cell.cell_contents  # noqa: B018  a cell says only by this whether it holds something
    except ValueError:
        return False
    return True


def _file(thing: object) -> Path | None:
    """The file of a function, class or module; None where there is none, as of a builtin.

    That of a function need not exist: a notebook's cell has a name and no file.
    """
    written = Path(thing.__code__.co_filename).resolve() if isinstance(thing, FunctionType) else None
    if written is not None and written.is_file():
        return written
    name = _namespace(thing).get("__file__")  # a function that a decorator generated has no file of its own
    return Path(name).resolve() if name else written


def _namespace(thing: object) -> Mapping[str, Any]:
    """The names of the module of a function, class or module."""
    if isinstance(thing, FunctionType):
        return thing.__globals__
    module = sys.modules.get(thing.__module__) if isinstance(thing, type) else thing
    return vars(module) if isinstance(module, ModuleType) else {}


def _within(file: Path, folders: Iterable[Path]) -> bool:
    return any(file.is_relative_to(folder) for folder in folders)


def _digest(file: Path, thing: object) -> str:
    """Of a source file; of the thing alone where its file cannot be read, as in a notebook."""
    content = file.read_bytes() if file.is_file() else _text(thing).encode()
    return hashlib.sha256(file.name.encode() + b"\0" + content).hexdigest()


def _text(thing: object) -> str:
    try:
        return inspect.getsource(thing)  # type: ignore[arg-type]  # it raises TypeError where it cannot
    except (OSError, TypeError):
        code = getattr(thing, "__code__", None)  # typed at a prompt: what it does, not how it was written
        return repr(thing) if code is None else repr((code.co_code, code.co_names, code.co_consts))
