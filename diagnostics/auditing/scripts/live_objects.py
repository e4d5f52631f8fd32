"""Finds the optimisers and models of a running program.

Torch has hooks for calls and updates, and none for the making of an optimiser: what exists is read from the garbage
collector, which changes nothing.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_LIBRARIES = (Path(torch.__file__).parent, Path(__file__).parents[2])
"""Folders of the files whose variables are no names of the user."""


def held_by(optimizers: Iterable[Optimizer]) -> set[int]:
    """The id of each tensor that optimisers hold."""
    return {
        id(tensor)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for tensor in group["params"]
    }


class LiveObjects:
    """The optimisers and modules that exist when this is made.

    Attributes:
        optimizers: The torch optimisers, without wrappers that hold no groups of their own.
    """

    def __init__(self) -> None:
        kinds = {*_subclasses(Optimizer), *_subclasses(nn.Module)}
        # by type: isinstance() would ask a lazy proxy of the program for its class, and so load it
        found = [each for each in gc.get_objects() if type(each) in kinds]
        needed = {"param_groups", "_optimizer_step_pre_hooks"}
        self.optimizers = [
            each for each in found if isinstance(each, Optimizer) and needed <= vars(each).keys()
        ]
        self._modules = [each for each in found if isinstance(each, nn.Module)]
        self._holders: dict[int, list[nn.Module]] = {}  # id of a module -> those whose direct child it is
        for holder in found:
            for child in vars(holder).get("_modules", {}).values():
                self._holders.setdefault(id(child), []).append(holder)

    def holding(self, tensors: Iterable[Tensor]) -> list[Optimizer]:
        """The optimisers that hold some of these tensors."""
        wanted = set(map(id, tensors))
        return [each for each in self.optimizers if not held_by([each]).isdisjoint(wanted)]

    def owner(self, module: nn.Module) -> nn.Module:
        """The outermost module that contains another one, itself if there is none; lists and sequences do not count."""
        seen: dict[int, nn.Module] = {id(module): module}
        waiting = [module]
        while waiting:
            for holder in self._holders.get(id(waiting.pop()), ()):
                if id(holder) not in seen:
                    seen[id(holder)] = holder
                    waiting.append(holder)
        own = {key: each for key, each in seen.items() if each is module or not _is_torch(each)}
        outermost = [each for each in own.values() if not _is_inside(each, own, self._holders)]
        return max(outermost, key=lambda each: sum(1 for _ in each.parameters()), default=module)

    def copies(self, model: nn.Module) -> list[nn.Module]:
        """The modules that nothing contains and no optimiser holds, of the class and with the numbers of a model."""
        weights = list(model.parameters())
        alike = [each for each in self._modules if type(each) is type(model) and each is not model]
        return [
            each
            for each in alike
            if not self._holders.get(id(each))
            and not self.holding(each.parameters())
            and _are_equal(weights, list(each.parameters()))
        ]

    def path(self, module: nn.Module) -> str:
        """Like `name`, with the variable before an attribute: `ema.model`."""
        for frame in _users_frames():
            for name, value in frame.f_locals.items():
                if value is module and name != "self" and name.isidentifier():
                    return name
                for own, member in _attributes(value).items():
                    if member is module:
                        return f"{name}.{own}"
        return self.name(module)

    def name(self, module: nn.Module) -> str:
        """The name of a variable or attribute of the running functions that holds a module, else that of its class."""
        for frame in _users_frames():
            for name, value in frame.f_locals.items():
                if value is module and name != "self" and name.isidentifier():
                    return name
            for value in frame.f_locals.values():
                for name, member in _attributes(value).items():
                    if member is module:
                        return name
        for holder in self._holders.get(id(module), ()):
            key = next(key for key, child in holder._modules.items() if child is module)
            return f"{self.name(holder)}_{key}"
        return type(module).__name__


def _subclasses(kind: type) -> set[type]:
    found: set[type] = {kind}
    waiting = [kind]
    while waiting:
        new: set[type] = set(type.__subclasses__(waiting.pop())) - found
        found |= new
        waiting += new
    return found


def _is_inside(
    module: nn.Module, others: Collection[int], holders: Mapping[int, Collection[nn.Module]]
) -> bool:
    """Whether one of the others contains a module, at any depth."""
    seen: set[int] = set()
    waiting = [module]
    while waiting:
        for holder in holders.get(id(waiting.pop()), ()):
            if id(holder) in others:
                return True
            if id(holder) not in seen:
                seen.add(id(holder))
                waiting.append(holder)
    return False


def _is_torch(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] == "torch"


def _users_frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith("<") and not any(each in Path(file).parents for each in _LIBRARIES):
            yield frame
        frame = frame.f_back


def _attributes(value: Any) -> Mapping[str, Any]:
    """The attributes of an object of the user's; of a module, a class or a function none."""
    kind = type(value)
    if kind.__module__ == "builtins" or issubclass(kind, nn.Module):
        return {}
    found = getattr(value, "__dict__", {})
    return found if isinstance(found, dict) else {}


def _are_equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two lists of weights hold the same numbers but for rounding, in memory of their own."""
    return len(one) == len(other) and all(
        first.shape == second.shape
        and first.device == second.device
        and first.data_ptr() != second.data_ptr()
        and torch.allclose(first, second, rtol=1e-3, atol=1e-6)
        for first, second in zip(one, other, strict=True)
    )
