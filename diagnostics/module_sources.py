"""Where the code of a module is written."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from torch import nn

from diagnostics.findings import Finding

QUIET = "no-grad"
"""Code of the cause that a module runs with gradients disabled: the line that calls it is the one to change."""


def locate_finding(
    finding: Finding, model: nn.Module, quiet: Mapping[str, tuple[str, int]] = MappingProxyType({})
) -> Finding:
    """The finding and its consequences with file and line, as far as they are known.

    Args:
        quiet: File and line that call a module with gradients disabled, by its name.
    """
    file, line = find_source(model, finding.module) if finding.module else ("", None)
    if finding.code == QUIET and (called := quiet.get(finding.module, ("", 0)))[0]:
        file, line = _shown(Path(called[0])), called[1]
    followed = tuple(locate_finding(each, model, quiet) for each in finding.consequences)
    return replace(finding, file=file, line=line, consequences=followed)


def find_source(model: nn.Module, name: str) -> tuple[str, int | None]:
    """File and first line of the forward of a module, or of its class where that inherits its forward from a library.

    For a layer of torch it is that of the innermost module around it whose class is not of torch: the place where the
    layer is used. The file is relative to the working directory where it lies inside it; ("", None) if there is none.
    """
    modules = dict(model.named_modules())
    while True:
        module = modules.get(name)
        if module is not None and type(module).__module__.partition(".")[0] != "torch":
            return _source_of(type(module))
        if not name:
            return "", None
        name = name.rpartition(".")[0]


def _source_of(kind: type[nn.Module]) -> tuple[str, int | None]:
    forward = inspect.getattr_static(kind, "forward", None)
    function = inspect.unwrap(forward) if callable(forward) else None
    code = getattr(function, "__code__", None)
    inherited = str(getattr(function, "__module__", "")).partition(".")[0] == "torch"  # as of a Sequential
    if code is None or inherited:
        return "", None
    if _is_installed(code.co_filename):
        file, line = _place_of_class(kind)
        if file and not _is_installed(file):
            return _shown(Path(file)), line
    return _shown(Path(code.co_filename)), code.co_firstlineno


def _is_installed(path: str) -> bool:
    """Whether a file is that of an installed library."""
    return not {"site-packages", "dist-packages"}.isdisjoint(Path(path).parts)


def _place_of_class(kind: type[nn.Module]) -> tuple[str, int | None]:
    try:
        return inspect.getsourcefile(kind) or "", inspect.getsourcelines(kind)[1]
    except (OSError, TypeError):  # a class of a console has no source
        return "", None


def _shown(path: Path) -> str:
    """The path from the working directory, if it is inside."""
    inside = path.is_absolute() and path.is_relative_to(Path.cwd())
    return str(path.relative_to(Path.cwd()) if inside else path)
