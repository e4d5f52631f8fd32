"""From a name of code to the object, with the user's own exception where their code fails."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType

from etrm.errors import EtrmError, ExtensionError
from etrm.extensions.names import CodeName
from etrm.extensions.permission import check_allowed, read_source

_loaded: dict[str, tuple[bytes, ModuleType]] = {}
"""Content and module of each file by path. A file that has changed is loaded anew."""
_PACKAGES = tuple(Path(__file__).parents[2] / name for name in ("etrm", "diagnostics", "reports", "cli.py"))


def load_object(code: CodeName) -> object:
    """The object of a name.

    Raises:
        ExtensionError: it may not run, there is no such file, module or name, or its import fails.
    """
    module = _file_module(code) if code.is_file else _installed_module(code)
    try:
        return getattr(module, code.name)
    except AttributeError:
        own = [
            name
            for name, value in vars(module).items()
            if getattr(value, "__module__", "") == module.__name__
        ]
        close = difflib.get_close_matches(code.name, own, n=1)
        raise ExtensionError(
            "extension.no-name",
            f"{code.place} has no {code.name!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
            allowed=", ".join(own) or "nothing: it defines no class and no function",
        ) from None


def _file_module(code: CodeName) -> ModuleType:
    source = read_source(code)
    check_allowed(code, source)
    if code.place in _loaded and _loaded[code.place][0] == source:
        return _loaded[code.place][1]
    path = Path(code.place)
    # One name per file, in every process: pickle and dataclasses look classes up by it.
    module = ModuleType(f"etrm_extension_{hashlib.sha256(code.place.encode()).hexdigest()[:12]}_{path.stem}")
    module.__file__ = code.place
    sys.modules[module.__name__] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # at the end: a helper beside the file hides no installed package
    with in_users_code(str(code), "extension.import-failed"):
        exec(compile(source, code.place, "exec"), vars(module))
    _loaded[code.place] = source, module
    return module


def _installed_module(code: CodeName) -> ModuleType:
    check_allowed(code)
    try:
        with in_users_code(str(code), "extension.import-failed"):
            return importlib.import_module(code.place)
    except ExtensionError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and f"{code.place}.".startswith(f"{missing.name}."):
            raise ExtensionError(
                "extension.no-module",
                f"there is no module {code.place!r}",
                got=f"no {missing.name!r} on the import path",
                next_step="install its package, or name the file: path/to/file.py:Name",
            ) from missing
        raise


@contextmanager
def in_users_code(name: str, code: str = "extension.raised") -> Iterator[None]:
    """Around a call of a user's code: what it raises becomes an error that shows the user's lines alone.

    Args:
        name: name of the code.
        code: stable code of the error.

    Raises:
        ExtensionError: the user's code raised. Errors of this project pass unchanged.
    """
    try:
        yield
    except EtrmError:
        raise
    except Exception as error:
        raise _failure(error, name, code) from error


def explained(error: BaseException) -> ExtensionError | None:
    """The error to show where the code of a loaded file raised; None where no such file was running."""
    files = {str(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)}
    for place in _loaded:
        if place in files:
            return _failure(error, place, "extension.raised")
    return None


def _failure(error: BaseException, name: str, code: str) -> ExtensionError:
    lines = traceback.format_exception(type(error), error, _users_part(error.__traceback__), chain=False)
    shown = "".join(lines).rstrip()
    what = "cannot be imported" if code == "extension.import-failed" else "raised an exception"
    return ExtensionError(
        code, f"the code {name} {what}", got=shown, next_step="fix it, then the same command again"
    )


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    """A traceback from the first line that is neither ours nor the import system's."""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        ours = any(Path(file).is_relative_to(folder) for folder in _PACKAGES)
        if not (ours or file.startswith("<frozen") or Path(file).parent.name == "importlib"):
            return trace
        trace = trace.tb_next
    return None
