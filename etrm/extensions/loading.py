"""Load the object that a name of code refers to. If the user's code fails, the error shows their exception."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, TracebackType

from etrm.errors import EtrmError, ExtensionError
from etrm.extensions.names import CodeName
from etrm.extensions.permission import check_allowed, read_source

_loaded: dict[str, tuple[bytes, ModuleType]] = {}
"""The content and the module of each loaded file, by path. A file that has changed is loaded again."""
_named_files: set[str] = set()
"""Files of the modules and entry points that were loaded by name."""
_PACKAGES = tuple(Path(__file__).parents[2] / name for name in ("etrm", "diagnostics", "reports", "cli.py"))


_FIX = "fix the code, then run the same command again"


def load_object(code: CodeName) -> object:
    """Return the object that a name of code refers to.

    Raises:
        ExtensionError: it may not run, there is no such file, module or name, or its import fails.
    """
    module = _file_module(code) if code.is_file else _installed_module(code)
    try:
        return getattr(module, code.name)
    except AttributeError:
        own = [name for name, value in vars(module).items() if _defines(module, name, value)]
        close = difflib.get_close_matches(code.name, own, n=1)
        raise ExtensionError(
            "extension.no-name",
            f"{code.place} has no {code.name!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
            allowed=", ".join(own) or "nothing: it defines no name",
        ) from None


def _defines(module: ModuleType, name: str, value: object) -> bool:
    """Return whether a public name of a module is its own: not a module, class or function that it imports."""
    if name.startswith("_") or isinstance(value, ModuleType):
        return False
    imported = isinstance(value, type) or (callable(value) and hasattr(value, "__name__"))
    own = getattr(value, "__module__", "") == module.__name__
    return own if imported else type(value).__module__ != "__future__"


def _file_module(code: CodeName) -> ModuleType:
    source = read_source(code)
    check_allowed(code, source)
    if code.place in _loaded and _loaded[code.place][0] == source:
        return _loaded[code.place][1]
    path = Path(code.place)
    # The module of a file has the same name in every process, because pickle and dataclasses look classes up by it.
    module = ModuleType(f"etrm_extension_{hashlib.sha256(code.place.encode()).hexdigest()[:12]}_{path.stem}")
    module.__file__ = code.place
    sys.modules[module.__name__] = module
    if str(path.parent) not in sys.path:
        sys.path.append(
            str(path.parent)
        )  # at the end, so that files next to it do not hide installed packages
    with in_users_code(str(code), importing=True):
        exec(compile(source, code.place, "exec"), vars(module))
    _loaded[code.place] = source, module
    return module


def _installed_module(code: CodeName) -> ModuleType:
    check_allowed(code)
    try:
        with in_users_code(str(code), importing=True):
            module = importlib.import_module(code.place)
    except ExtensionError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and f"{code.place}.".startswith(f"{missing.name}."):
            raise ExtensionError(
                "extension.no-module",
                f"the module {code.place!r} does not exist",
                got=f"no {missing.name!r} on the import path",
                next_step="install its package, or name the file: path/to/file.py:Name",
            ) from missing
        raise
    _note_file(module)
    return module


def load_entry_point(point: EntryPoint) -> object:
    """Return the object of an entry point.

    Raises:
        ExtensionError: its import fails.
    """
    with in_users_code(point.name, importing=True):
        found: object = point.load()
    _note_file(sys.modules[point.module])
    return found


def _note_file(module: ModuleType) -> None:
    file = getattr(module, "__file__", None)
    if file is not None and not _is_ours(file):
        _named_files.add(file)


@contextmanager
def in_users_code(name: str, *, importing: bool = False) -> Iterator[None]:
    """Run a user's code; an exception becomes an error that shows only the lines of the user's code.

    Args:
        name: the name of the code.
        importing: whether the call is the import of the code.

    Raises:
        ExtensionError: the user's code raised. Errors of this project pass unchanged.
    """
    try:
        yield
    except EtrmError:
        raise
    except (Exception, SystemExit) as error:
        shown = _users_lines(error)
        if importing:
            raise ExtensionError(
                "extension.import-failed", f"the code {name} cannot be imported", got=shown, next_step=_FIX
            ) from error
        raise _raised(name, shown) from error


def explained(error: BaseException) -> ExtensionError | None:
    """Return the error to show if code that was loaded by name raised; None if no such code was running."""
    place = next((file for file, _ in _frames(error) if _is_users(file)), None)
    return None if place is None else _raised(place, _users_lines(error))


def _raised(name: str, shown: str) -> ExtensionError:
    return ExtensionError(
        "extension.raised", f"the code {name} raised an exception", got=shown, next_step=_FIX
    )


def _users_lines(error: BaseException) -> str:
    """Return the traceback of an error, starting at the first line of the user's code."""
    theirs = [trace for file, trace in _frames(error) if _is_users(file)]
    theirs += [trace for file, trace in _frames(error) if not _is_ours(file)]
    start = theirs[0] if theirs else None  # the message of a syntax error already has its line
    return "".join(traceback.format_exception(type(error), error, start, chain=False)).rstrip()


def _frames(error: BaseException) -> Iterator[tuple[str, TracebackType]]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code.co_filename, trace
        trace = trace.tb_next


def _is_users(file: str) -> bool:
    """Return whether code was loaded from a file by its name."""
    return file in _loaded or file in _named_files


def _is_ours(file: str) -> bool:
    """Return whether a file belongs to this project or to the import system."""
    if file.startswith("<frozen") or Path(file).parent.name == "importlib":
        return True
    return any(Path(file).is_relative_to(folder) for folder in _PACKAGES)
