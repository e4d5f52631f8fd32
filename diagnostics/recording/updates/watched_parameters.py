"""Which parameters of a model are watched, and which watched modules hold them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from diagnostics.selection import check_patterns, covers, innermost


@dataclass(frozen=True, eq=False)
class Tracked:
    """A parameter to watch, with the innermost watched module that holds it."""

    name: str
    parameter: nn.Parameter
    owner: str
    expect_frozen: bool
    shared: tuple[str, ...] = ()
    holder: nn.Module | None = None  # the layer that has it as an attribute
    is_target: bool = False  # in a declared target network

    @cached_property
    def numel(self) -> int:
        """Its elements."""
        return self.parameter.numel()

    @cached_property
    def rounding(self) -> float:
        """Machine epsilon of its type."""
        return torch.finfo(self.parameter.dtype).eps

    @cached_property
    def layer(self) -> str:
        """Name of the layer that has it."""
        return self.name.rpartition(".")[0]

    @cached_property
    def _place(self) -> tuple[Mapping[str, Any], str]:
        """Where its layer holds it; a look there is much faster than getattr, and a ScriptModule has none."""
        held = None if self.holder is None else vars(self.holder).get("_parameters")
        return (held if isinstance(held, dict) else {}), self.name.rpartition(".")[2]

    @property
    def successor(self) -> Tensor | None:
        """The other parameter that its layer has in its place by now, if there is one."""
        held, own = self._place
        found: Tensor | None = held.get(own)
        return None if found is self.parameter else found

    @property
    def replaced(self) -> bool:
        """Whether its layer has another tensor in its place by now."""
        held, own = self._place
        if self.holder is None or held.get(own) is self.parameter:
            return False
        return getattr(self.holder, own, self.parameter) is not self.parameter


def has_values(tensor: Tensor) -> bool:
    """Whether it has numbers: not one of a lazy module before its first call, nor on the meta device."""
    return not is_lazy(tensor) and not tensor.is_meta


def track(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    expect_frozen: Sequence[str],
    targets: Iterable[str] = (),
    whole: bool = False,
) -> list[Tracked]:
    """Parameters under the watched modules, and wherever they are those of targets and those that must not move.

    Args:
        whole: Whether those of the model count too that no watched module has, as an embedding of positions.
    """
    names = [name for name, _ in model.named_parameters()]
    check_patterns("expect_frozen", expect_frozen, names)
    layers = dict(model.named_modules(remove_duplicate=False))  # a ScriptModule has no get_submodule()
    following = {id(each) for name in targets for each in layers[name].parameters()}
    watched = {id(each) for module in modules.values() for each in module.parameters()} | following
    holders: dict[int, list[str]] = {}
    for name, module in modules.items():
        for parameter in module.parameters():
            holders.setdefault(id(parameter), []).append(name)
    tracked = []
    for name, parameter in model.named_parameters():
        frozen = any(covers(pattern, name) for pattern in expect_frozen)
        if frozen or whole or id(parameter) in watched:
            shared = _apart(name, holders.get(id(parameter), ()))
            holder = layers[name.rpartition(".")[0]]
            owner, target = innermost(name, modules), id(parameter) in following
            tracked.append(Tracked(name, parameter, owner, frozen, shared, holder, target))
    return tracked


def _apart(parameter: str, holders: Iterable[str]) -> tuple[str, ...]:
    """The holders of a parameter that do not hold it under its first name."""
    return tuple(name for name in holders if not parameter.startswith(f"{name}."))


def members(tracked: Sequence[Tracked], modules: Mapping[str, nn.Module]) -> dict[str, list[str]]:
    """Names of the parameters of each module; a shared parameter belongs to all that hold it."""
    names = {id(item.parameter): item.name for item in tracked}
    return {
        name: [names[id(parameter)] for parameter in module.parameters() if id(parameter) in names]
        for name, module in modules.items()
    }
