"""Chooses modules and parameters of a model by name or pattern."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from diagnostics.errors import InvalidType, InvalidValue, UnknownName

_T = TypeVar("_T")
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)


def with_submodules(model: nn.Module) -> nn.Module:
    """The model; one that holds parameters alone as the only child of a container, named after its class.

    Raises:
        InvalidType: It is not a module.
    """
    if not isinstance(model, nn.Module):
        raise InvalidType(
            "selection.not-a-module", "model must be a torch.nn.Module, found {got}", got=type(model).__name__
        )
    if any(True for _ in model.children()):
        return model
    return nn.ModuleDict({type(model).__name__: model})


def check_function(argument: str, function: object) -> None:
    """Refuse what cannot be called, such as a loss that is already computed.

    Raises:
        InvalidType: It is no function.
    """
    if not callable(function):
        raise InvalidType(
            "selection.not-a-function",
            "{argument} must be a function without arguments, found a {got}: write {argument}=lambda: ...",
            argument=argument,
            got=type(function).__name__,
        )


def check_list(argument: str, names: Iterable[str]) -> None:
    """Refuse a string instead of several: each of its characters would be taken for a name.

    Raises:
        InvalidType: It is a string.
    """
    if isinstance(names, str):
        raise InvalidType(
            "selection.not-a-list",
            "{argument} must be a list of strings, found the string {got!r}: write {argument}=[{got!r}]",
            argument=argument,
            got=names,
        )


def select_modules(model: nn.Module, watch: Sequence[str] | None) -> dict[str, nn.Module]:
    """The submodules named by `watch`, in the model's order.

    Args:
        watch: Names or fnmatch patterns (`*` also matches dots). None, an empty list or the name ""
            mean the direct children, and those of children without a forward of their own and of a model
            that this one only wraps. Lists of modules, which are never called themselves, mean their members.

    Raises:
        TypeError: `watch` is a string.
        ValueError: A name or pattern matches nothing, or the model has no submodule.
    """
    check_list("watch", watch or ())
    patterns = list(watch or [""])
    modules = dict(model.named_modules())
    del modules[""]
    if not modules:
        raise InvalidValue(
            "selection.no-submodule",
            "{model} has no submodule to watch; put it into another: nn.Sequential(model)",
            model=type(model).__name__,
        )
    chosen: set[str] = set()
    for pattern in patterns:
        if pattern == "":
            chosen.update(name for name in _callable_children(model) if name in modules)  # aliases are not
            continue
        matches = [name for name in modules if fnmatchcase(name, pattern)]
        if not matches:
            raise _no_match("watch", pattern, modules)
        chosen.update(matches)
    while held := [name for name in chosen if _is_container(modules[name])]:
        for name in held:
            chosen.remove(name)
            members = [f"{name}.{child}" for child, _ in modules[name].named_children()]
            chosen.update(each for each in members if each in modules)  # others have another name already
    return {name: module for name, module in modules.items() if name in chosen}


def _callable_children(model: nn.Module, prefix: str = "") -> Iterator[str]:
    """Names of the children; of those that cannot be called and hold layers alone, and of wrapped models, of theirs."""
    wrapped = _wrapped_child(model)
    for name, child in model.named_children():
        if _is_bare_container(child) or name == wrapped:
            if child._parameters:  # its own, which none of its children holds
                yield f"{prefix}{name}"
            yield from _callable_children(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _is_container(module: nn.Module) -> bool:
    return isinstance(module, _CONTAINERS) or _is_bare_container(module)


def _is_bare_container(module: nn.Module) -> bool:
    # read without a call: of a TorchScript module it is a descriptor that fails
    without = inspect.getattr_static(module, "forward", None) is nn.Module.forward
    return without and not module._parameters and any(True for _ in module.children())


def _wrapped_child(model: nn.Module) -> str:
    """Name of the child that is a whole model of several layers inside this one, "" if there is none.

    It is the only child with weights, as `self.net` of a LightningModule, or the model under the head of a Hugging Face
    class, which names it in `base_model_prefix`.
    """
    holders = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    base = getattr(model, "base_model_prefix", "")
    name = base if base in holders else holders[0] if len(holders) == 1 else ""
    if not name or not isinstance(name, str):
        return ""
    child = model.get_submodule(name)
    scripted = isinstance(child, torch.jit.ScriptModule)  # its children take no hooks
    several = sum(any(True for _ in part.parameters()) for part in _flat_children(child)) > 1
    return name if several and not scripted and not isinstance(child, _CONTAINERS) else ""


def _flat_children(module: nn.Module) -> Iterator[nn.Module]:
    """The children, of containers without a forward theirs."""
    for child in module.children():
        if _is_bare_container(child):
            yield from _flat_children(child)
        else:
            yield child


def check_patterns(argument: str, patterns: Iterable[str], names: Iterable[str]) -> None:
    """Refuse a pattern that covers none of `names`.

    Raises:
        InvalidType: `patterns` is a string.
        InvalidValue: There is one; the error names the nearest names.
    """
    check_list(argument, patterns)
    known = list(names)
    for pattern in patterns:
        if not any(covers(pattern, name) for name in known):
            raise _no_match(argument, pattern, known)


def watched_one(records: Mapping[str, _T], name: str) -> _T:
    """The entry of a watched module or parameter.

    Raises:
        UnknownName: It is not watched.
    """
    if name not in records:
        raise UnknownName(
            "selection.not-watched",
            "{got!r} is not watched; watched are: {allowed}",
            got=name,
            allowed=", ".join(records),
        )
    return records[name]


def covers(pattern: str, name: str) -> bool:
    """Whether a pattern names `name` itself or something that contains it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def named_by(patterns: Iterable[str], name: str) -> bool:
    """Whether some pattern names `name` or what contains it; `pooler.*` also names `pooler` itself."""
    return any(covers(pattern, name) or pattern.removesuffix(".*") == name for pattern in patterns)


def innermost(name: str, modules: Iterable[str]) -> str:
    """The longest of the module names that contains the parameter `name`, "" if none does."""
    return max((module for module in modules if name.startswith(f"{module}.")), key=len, default="")


_FOLLOWERS = ("target", "ema", "teacher", "momentum", "average")
"""Words in the name of a copy that follows the original."""
_ROLES = (*_FOLLOWERS, "reference", "frozen", "old", "slow", "delayed")
"""Words in the name of a copy that must not move with the original."""


_SOURCES = ("source", "src", "input")
"""Words for what is translated into a target; next to one of them, a target is no network that follows another."""
_NEIGHBOURS = ("context", "query")
"""The same of embeddings: words next to a target word, or what is compared with it."""


def has_role(name: str, words: Sequence[str] = _ROLES, others: Iterable[str] = ()) -> bool:
    """Whether a name says that its weights must lag behind others.

    Args:
        others: Names of the other modules, as far as they are known.
    """
    roles = {part for part in _parts(name) if part in words}
    if "target" in roles:
        embeds = any(part.startswith("emb") for part in _parts(name))
        sides = _SOURCES + _NEIGHBOURS if embeds else _SOURCES
        if any(part in sides for other in others for part in _parts(other)):
            roles.remove("target")
    return bool(roles)


def _parts(name: str) -> list[str]:
    return [part for each in name.lower().split(".") for part in each.split("_")]


def find_followers(model: nn.Module) -> dict[str, str]:
    """Modules of a model whose name says that they follow another one, each with a sibling of the same shapes."""
    found: dict[str, str] = {}
    for path, holder in model.named_modules():
        children = dict(holder.named_children())
        for own in children if not has_role(path) else ():
            if not has_role(own, _FOLLOWERS):
                continue
            alike = [name for name, child in children.items() if _are_alike(children[own], child)]
            sources = [name for name in alike if not has_role(name)]
            if len(sources) == 1 and has_role(own, _FOLLOWERS, sources):
                prefix = f"{path}." if path else ""
                found[f"{prefix}{own}"] = f"{prefix}{sources[0]}"
    return found


def _are_alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules are different ones of the same class and shapes, with weights."""
    if one is other or type(one) is not type(other) or any(map(is_lazy, one.parameters())):
        return False
    shapes = [{name: each.shape for name, each in module.named_parameters()} for module in (one, other)]
    return bool(shapes[0]) and not any(map(is_lazy, other.parameters())) and shapes[0] == shapes[1]


def find_copies(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Modules with weights, each with another one of the same class and shapes, as an average or a target has."""
    alike: dict[tuple[object, ...], list[str]] = {}
    for name, module in modules.items():
        if any(is_lazy(weight) for weight in module.parameters()):
            continue
        shapes = tuple((own, weight.shape) for own, weight in module.named_parameters())
        if shapes:
            alike.setdefault((type(module), shapes), []).append(name)
    several = [names for names in alike.values() if len(names) > 1]
    return {name: next(each for each in names if each != name) for names in several for name in names}


def moded(module: nn.Module) -> dict[str, nn.Module]:
    """The layers in a module, itself included, that act otherwise in training than in evaluation."""
    return {name: layer for name, layer in module.named_modules() if _has_modes(layer)}


def updates_statistics(layer: nn.Module) -> bool:
    """Whether a forward pass of a layer changes its running statistics now."""
    if not isinstance(layer, nn.modules.batchnorm._NormBase):
        return False
    return layer.training and layer.track_running_stats and layer.momentum != 0


def _has_modes(layer: nn.Module) -> bool:
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return layer.p > 0
    if isinstance(layer, nn.modules.batchnorm._NormBase):
        return layer.track_running_stats
    return isinstance(layer, (nn.RNNBase, nn.MultiheadAttention)) and layer.dropout > 0


def _no_match(argument: str, pattern: str, names: Iterable[str]) -> InvalidValue:
    known = list(names)
    close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.5)
    listed = close or known[:8]
    return InvalidValue(
        "selection.no-match",
        "{argument}: nothing matches {got!r}; {kind}: {allowed}{more}",
        argument=argument,
        got=pattern,
        kind="nearest" if close else "there are",
        allowed=", ".join(listed),
        nearest=close[0] if close else None,
        more=", ..." if not close and len(known) > len(listed) else "",
    )
