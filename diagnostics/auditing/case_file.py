"""Audits what a target names: a script, the case that a file describes, or a model of a library.

    etrm audit train.py
    etrm audit train.py:make_case

    def make_case():
        return {"model": model, "step": step, "batches": loader, "optimizer": optimizer}

The dictionary holds the arguments of `diagnostics.audit` by name.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from diagnostics.auditing.audit import Audit, audit
from diagnostics.auditing.exceptions import introduce
from diagnostics.auditing.named_models import LIBRARIES, build_named_case, is_named_model
from diagnostics.auditing.scripts.script import ScriptAudit, audit_script
from diagnostics.auditing.user_code import CaseError as CaseError
from diagnostics.auditing.user_code import UserError as UserError
from diagnostics.auditing.user_code import users_lines
from diagnostics.errors import ToolkitError

_ARGUMENTS = inspect.signature(audit).parameters
_SCRIPT_OPTIONS = tuple(
    name
    for name, argument in inspect.signature(audit_script).parameters.items()
    if argument.kind is argument.KEYWORD_ONLY
)
_REQUIRED = tuple(name for name, argument in _ARGUMENTS.items() if argument.default is argument.empty)


def audit_file(target: str, arguments: Sequence[str] = (), *, to_end: bool = False, **options: Any) -> Audit:
    """Audit the case that `target`, as PATH:FUNCTION, returns, the model that it names, as hf:NAME, or a script.

    Args:
        target: What to audit.
        arguments: Arguments of a script.
        to_end: Whether a script runs to its end.
        options: Arguments of `audit` that come on top of those of the case, such as `ignore`; of a script those
            of `audit_script`.

    Raises:
        CaseError: The file or the function is missing, it does not return the arguments of an audit, or the
            audit cannot take them.
        UserError: The user's code raised.
    """
    if is_script(target):
        return _audit_script(Path(target), arguments, to_end, options)
    if arguments or to_end:
        raise CaseError(
            "case.not-a-script",
            "{got} is not a script: {options} are for TARGET.py alone",
            got=target,
            options="arguments after -- and --all",
        )
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
        trace = users_lines(error)
        if trace:
            raise UserError("case.user-code", "{trace}", trace=f"{introduce(error)}{trace}") from error
        if isinstance(error, ToolkitError):
            facts = {**error.facts, "target": target, "reason": str(error)}
            raise CaseError(error.code, "{target}: {reason}", **facts) from error
        if isinstance(error, (ValueError, TypeError, KeyError)):
            reason = str(error.args[0] if error.args else error)
            raise CaseError(
                "case.audit-failed", "{target}: {reason}", target=target, reason=reason
            ) from error
        raise


def is_script(target: str) -> bool:
    """Whether a target names a file, and nothing in it."""
    return not is_named_model(target) and (target.endswith(".py") or Path(target).is_file())


def _audit_script(
    path: Path, arguments: Sequence[str], to_end: bool, options: Mapping[str, Any]
) -> ScriptAudit:
    if not path.is_file():
        raise CaseError("case.no-file", "there is no file {got}", got=str(path))
    given = {name: value for name, value in options.items() if name not in _SCRIPT_OPTIONS}
    if given:
        raise CaseError(
            "script.needs-function",
            "{options} need a function that returns the step: {script}:FUNCTION, see --help; a script takes {allowed}",
            options=", ".join(given),
            script=str(path),
            allowed=", ".join(_SCRIPT_OPTIONS),
        )
    if to_end and "steps" in options:
        raise CaseError(
            "script.steps-and-all", "--steps stops the script, and --all does not: give one of them"
        )
    chosen: dict[str, Any] = {**options, "steps": None} if to_end else dict(options)
    return audit_script(path, arguments, **chosen)


def artifact_of(target: str) -> str:
    """The audited file, "" for a model of a library."""
    if is_script(target):
        return target
    return "" if is_named_model(target) else target.rpartition(":")[0]


def _split(target: str) -> tuple[Path, str]:
    name, colon, function = target.rpartition(":")
    if not colon or not name or not function.isidentifier():
        raise CaseError(
            "case.bad-target",
            "{got!r} is neither a script, such as train.py, nor PATH:FUNCTION, such as train.py:make_case, nor"
            " {allowed}:NAME",
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
