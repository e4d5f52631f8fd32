"""Audits the case that a user's file describes, or a model of a library: `etrm audit train.py:make_case`.

    def make_case():
        return {"model": model, "step": step, "batches": loader, "optimizer": optimizer}

The dictionary holds the arguments of `diagnostics.audit` by name.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from torch import nn

from diagnostics.auditing.audit import Audit, audit
from diagnostics.auditing.named_models import LIBRARIES, build_named_case, is_named_model
from diagnostics.errors import ToolkitError

_HERE = Path(__file__).parents[1]
_BETWEEN = {contextlib.__file__}
"""Files whose frames are between those of the toolkit: the step of a monitor is a context manager."""
_ARGUMENTS = inspect.signature(audit).parameters
_REQUIRED = tuple(name for name, argument in _ARGUMENTS.items() if argument.default is argument.empty)


class CaseError(ToolkitError):
    """The case cannot be audited; the message has the reason and what is allowed."""


class UserError(ToolkitError):
    """The user's code raised an exception; the message is its traceback, from the user's first line on."""


def audit_file(target: str, **options: Any) -> Audit:
    """Audit the case that `target`, as PATH:FUNCTION, returns, or the model that it names, as hf:NAME.

    Args:
        options: Arguments of `audit` that come on top of those of the case, such as `ignore`.

    Raises:
        CaseError: The file or the function is missing, it does not return the arguments of an audit, or the
            audit cannot take them.
        UserError: The user's code raised.
    """
    named = is_named_model(target)
    path, function = (Path(), "") if named else _split(target)
    try:
        made = build_named_case(target) if named else _find_function(path, function)()
        return audit(**{**_checked(made, target), **options})
    except CaseError:
        raise
    except Exception as error:
        if named and isinstance(error, ToolkitError):
            raise CaseError(error.code, "{reason}", **{**error.facts, "reason": str(error)}) from error
        theirs = _users_part(error)
        if theirs is not None or isinstance(error, SyntaxError):  # which names its line by itself
            lines = traceback.format_exception(type(error), error, theirs)
            raise UserError("case.user-code", "{trace}", trace="".join(lines)) from error
        if isinstance(error, ToolkitError):
            facts = {**error.facts, "target": target, "reason": str(error)}
            raise CaseError(error.code, "{target}: {reason}", **facts) from error
        if isinstance(error, (ValueError, TypeError, KeyError)):
            reason = str(error.args[0] if error.args else error)
            raise CaseError(
                "case.audit-failed", "{target}: {reason}", target=target, reason=reason
            ) from error
        raise


def artifact_of(target: str) -> str:
    """The audited file, "" for a model of a library."""
    return "" if is_named_model(target) else target.rpartition(":")[0]


def _split(target: str) -> tuple[Path, str]:
    name, colon, function = target.rpartition(":")
    if not colon or not name or not function.isidentifier():
        raise CaseError(
            "case.bad-target",
            "{got!r} is neither PATH:FUNCTION, such as train.py:make_case, nor {allowed}:NAME",
            got=target,
            allowed=":NAME, ".join(LIBRARIES),
        )
    path = Path(name)
    if not path.is_file():
        raise CaseError("case.no-file", "there is no file {got}", got=str(path))
    return path, function


def _imported(path: Path, spec: ModuleSpec) -> ModuleType:
    """The file as a module, run as `python FILE` would, less its `__main__` part."""
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look classes up there
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


def _find_function(path: Path, name: str) -> Callable[[], Any]:
    """The function of a file, which is not run if its text cannot define it: a script may train for hours."""
    spec = importlib.util.spec_from_file_location(f"audited_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise CaseError("case.not-python", "{got} is not a Python file", got=str(path))
    tree = ast.parse(path.read_bytes(), str(path))
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if _may_define(tree, name):
        found = getattr(_imported(path, spec), name, None)
        if callable(found):
            return found  # type: ignore[no-any-return]  # whatever it returns is checked
    raise CaseError(
        "case.no-function",
        "{path} has no function {got!r}; it has {allowed}",
        path=str(path),
        got=name,
        allowed=", ".join(functions) or "none",
    )


def _may_define(tree: ast.Module, name: str) -> bool:
    """Whether a name occurs in a file, as one or as a text, or may come from a star import."""
    words: set[object] = set()
    for node in ast.walk(tree):
        for field in ("id", "name", "asname", "value"):
            word = getattr(node, field, None)
            words |= {word} if isinstance(word, str) else set()
    return not words.isdisjoint({name, "*"})


def _checked(case: Any, target: str) -> Mapping[str, Any]:
    if not isinstance(case, Mapping):
        raise CaseError(
            "case.no-dictionary",
            "{target} must return a dictionary of arguments of audit, found {got}",
            target=target,
            got=_kind(case),
        )
    missing = [name for name in _REQUIRED if name not in case]
    unknown = [str(name) for name in case if name not in _ARGUMENTS]
    if missing or unknown:
        raise CaseError(
            "case.wrong-arguments",
            "{target}: missing arguments: {missing}; unknown arguments: {unknown}; an audit takes {allowed}",
            target=target,
            missing=", ".join(missing) or "none",
            unknown=", ".join(unknown) or "none",
            allowed=", ".join(_ARGUMENTS),
        )
    kinds: dict[str, type] = {"model": nn.Module, "step": Callable, "batches": Iterable}  # type: ignore[dict-item]
    for name, kind in kinds.items():
        if not isinstance(case[name], kind):
            raise CaseError(
                "case.wrong-type",
                "{target}: {name} must be of type {expected}, found {got}",
                target=target,
                name=name,
                expected=kind.__name__,
                got=_kind(case[name]),
            )
    return case


def _kind(value: Any) -> str:
    return type(value).__name__


def _users_part(error: BaseException) -> TracebackType | None:
    """The traceback from the first line outside the toolkit and the import system; None if there is none."""
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<frozen") and file not in _BETWEEN and _HERE not in Path(file).parents:
            return trace
        trace = trace.tb_next
    return None
