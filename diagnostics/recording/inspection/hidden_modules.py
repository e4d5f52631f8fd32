"""Finds modules and parameters that a model holds in plain attributes, lists, dictionaries or other objects.

`named_modules()` lacks them, so that they are in no `parameters()`, optimiser or checkpoint, and `.to()` leaves them.
Only attributes that are stored are looked at; no property or method is called. Left out: what objects of torch and
numpy hold, weak references, functions, and whatever holds the model itself, such as a trainer or a wrapper. The walk
ends after `MOST_OBJECTS` objects, `MOST_MEMBERS` members of a container, and `DEEPEST` steps from a module.
"""

from __future__ import annotations

import functools
import math
import types
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from diagnostics.recording.tensors import inner_product, real_view
from diagnostics.recording.updates.watched_parameters import has_values
from diagnostics.recording.weak_hooks import WeakHook
from diagnostics.records import HiddenModule

MOST_OBJECTS = 20_000  # that one walk looks at: some 50 ms, once
MOST_MEMBERS = 1_000  # of one container: a buffer of samples is longer, a list of layers is not
DEEPEST = 6  # a module in a dictionary of lists in an object in an object has four
_ALIKE = 0.5
"""Cosine from which weights are those of an average or an earlier copy: independent ones are near 0."""

_OF_TORCH = frozenset(vars(nn.Module()))
_SEQUENCES = (list, tuple, set, frozenset, deque)
_CLOSED = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    str,
    bytes,
    int,
    float,
    complex,
)


@dataclass(frozen=True, eq=False)
class Hidden:
    """A module, or a parameter, with the path at which it was found."""

    path: str
    held: nn.Module | nn.Parameter

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Its parameters."""
        return [self.held] if isinstance(self.held, nn.Parameter) else list(self.held.parameters())


def find_hidden(model: nn.Module) -> list[Hidden]:
    """What `named_modules()` and `named_parameters()` lack, outermost first; modules without weights are left out."""
    walk = _Walk(model)
    for prefix, module in model.named_modules():
        walk.add(prefix, module)
    return list(walk.run())


class _Walk:
    """Breadth first, so that the shortest path is named."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._weights = {id(parameter) for parameter in model.parameters()}
        self._seen: set[int] = {id(module) for module in model.modules()} | self._weights
        self._alive: list[Any] = []  # ids stay unique as long as the objects do
        self._waiting: deque[tuple[str, Any, int]] = deque()
        self._left = MOST_OBJECTS

    def add(self, prefix: str, module: nn.Module) -> None:
        """Look at the plain attributes of a registered module."""
        own = {name: value for name, value in list(vars(module).items()) if name not in _OF_TORCH}
        self._wait(((f"{prefix}.{name}".removeprefix("."), value) for name, value in own.items()), 0)

    def _wait(self, members: Iterable[tuple[str, Any]], depth: int) -> None:
        for path, value in islice(members, self._left):
            self._left -= 1
            if value is not None and not isinstance(value, _CLOSED) and id(value) not in self._seen:
                self._waiting.append((path, value, depth))

    def run(self) -> Iterator[Hidden]:
        while self._waiting:
            path, value, depth = self._waiting.popleft()
            if id(value) in self._seen:
                continue
            self._seen.add(id(value))
            self._alive.append(value)
            if isinstance(value, nn.Module):
                yield from self._module(path, value)
            elif isinstance(value, nn.Parameter):
                yield Hidden(path, value)
            elif depth < DEEPEST:
                self._wait(((path + name, member) for name, member in self._members(value)), depth + 1)

    def _module(self, path: str, module: nn.Module) -> Iterator[Hidden]:
        inside = {id(each) for each in module.modules()}
        if id(self._model) in inside:
            return  # a wrapper of the model
        self._seen |= inside
        own = [each for each in module.parameters() if id(each) not in self._weights and not each.is_meta]
        if own:
            yield Hidden(path, module)

    def _members(self, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, member in list(islice(dict.items(value), MOST_MEMBERS)):
                yield f"[{key!r}]", member
        elif isinstance(value, _SEQUENCES):
            kind: Any = next(kind for kind in _SEQUENCES if isinstance(value, kind))
            for place, member in enumerate(list(islice(kind.__iter__(value), MOST_MEMBERS))):
                yield f"[{place}]", member
        elif isinstance(value, functools.partial):
            yield from (("()", member) for member in (value.func, *value.args, *value.keywords.values()))
        elif isinstance(value, types.MethodType):
            yield "", value.__self__
        elif not _is_foreign(value):
            members = _stored(value)
            if not any(member is self._model for member in members.values()):
                yield from ((f".{name}", member) for name, member in members.items())


def _is_foreign(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] in ("torch", "numpy", "builtins", "weakref", "threading")


def _stored(value: Any) -> dict[str, Any]:
    """The attributes that an object stores, by name; no code of its class runs."""
    found: dict[str, Any] = {}
    for kind in type(value).__mro__:
        for name, slot in vars(kind).items():
            if isinstance(slot, types.MemberDescriptorType):
                with suppress(AttributeError):  # a slot that was never filled
                    found[name] = slot.__get__(value)
    with suppress(AttributeError):
        own = object.__getattribute__(value, "__dict__")
        found |= dict(islice(list(own.items()), MOST_MEMBERS))
    return found


class HiddenModules:
    """What is hidden in a model, and how often it is called in each step.

    Args:
        owner: Function full path -> the innermost watched module that contains it.
    """

    def __init__(self, model: nn.Module, owner: Callable[[str], str]) -> None:
        self._model = model
        self._owner = owner
        self._found: list[Hidden] | None = None
        self._calls: dict[int, list[int]] = {}
        self._twins: dict[int, str] = {}
        self._listening: weakref.WeakMethod[Callable[[], bool]] | None = None

    def begin(self, listening: Callable[[], bool]) -> list[RemovableHandle]:
        """Start a step; the first time it looks for hidden modules and returns the hooks that count their calls.

        Args:
            listening: Function that returns whether calls count now.
        """
        self._calls = {}
        self._listening = weakref.WeakMethod(listening)
        if self._found is not None:
            return []
        self._found = find_hidden(self._model)
        self._twins = {
            place: _twin(self._model, hidden.held)
            for place, hidden in enumerate(self._found)
            if isinstance(hidden.held, nn.Module)
        }
        return [
            layer.register_forward_hook(WeakHook(self._count, place, layer))
            for place, hidden in enumerate(self._found)
            if isinstance(hidden.held, nn.Module)
            for layer in hidden.held.modules()
        ]

    @property
    def found(self) -> bool:
        """Whether something is hidden in the model, as far as was looked."""
        return bool(self._found)

    def forget(self) -> None:
        """The hooks were removed: look again in the next step."""
        self._found = None

    def _count(self, place: int, watched: nn.Module, module: nn.Module, args: Any, output: Any) -> None:
        listening = None if self._listening is None else self._listening()
        if module is watched and listening is not None and listening():
            calls = self._calls.setdefault(place, [0, 0])
            calls[0] += 1
            calls[1] += torch.is_grad_enabled()

    def records(self, held: Collection[int]) -> tuple[HiddenModule, ...]:
        """The records of the step.

        Args:
            held: The id of every tensor that an optimiser holds.
        """
        return tuple(self._record(place, hidden, held) for place, hidden in enumerate(self._found or ()))

    def _record(self, place: int, hidden: Hidden, held: Collection[int]) -> HiddenModule:
        parameters = hidden.parameters
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        calls, with_grad = self._calls.get(place, (0, 0))
        if isinstance(hidden.held, nn.Parameter):  # no optimiser and no zero_grad() of the model clears it
            calls = with_grad = int(hidden.held.grad is not None)
        return HiddenModule(
            path=hidden.path,
            owner=self._owner(hidden.path),
            kind=type(hidden.held).__name__,
            parameters=len(parameters),
            trainable=len(trainable),
            in_optimizers=sum(id(parameter) in held for parameter in trainable),
            calls=calls,
            calls_grad_enabled=with_grad,
            copy_of=self._twins.get(place, ""),
        )


def _twin(model: nn.Module, hidden: nn.Module) -> str:
    """The registered module of the same class, shapes and nearly the same weights, "" if there is none."""
    weights = _weights(hidden)
    for name, module in model.named_modules():
        if weights and type(module) is type(hidden) and _cosine(_weights(module), weights) > _ALIKE:
            return name or type(module).__name__
    return ""


def _weights(module: nn.Module) -> Mapping[str, Tensor]:
    """The parameters of a module by name; none where one has no values yet."""
    weights = dict(module.named_parameters())
    return weights if all(map(has_values, weights.values())) else {}


@torch.no_grad()
def _cosine(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Cosine of the angle between all weights of two modules; 0 where their names or shapes differ.

    One pair of tensors after the other: copies of whole networks may not fit into memory.
    """
    if {name: weight.shape for name, weight in one.items()} != {
        name: weight.shape for name, weight in other.items()
    }:
        return 0.0
    product = own_square = its_square = 0.0
    for name, weight in one.items():
        own = real_view(weight).float()  # a device may have no double precision
        its = real_view(other[name]).to(own)
        product += float(inner_product(own, its))
        own_square += float(inner_product(own, own))
        its_square += float(inner_product(its, its))
    lengths = math.sqrt(own_square * its_square)
    return product / lengths if lengths else 0.0
