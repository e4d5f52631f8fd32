"""The models that a running program calls: the outermost modules that have something to train."""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from torch import nn
from torch.optim import Optimizer

from diagnostics.auditing.scripts.live_objects import LiveObjects, held_by
from diagnostics.selection import select_modules


class WeakModules:
    """A set of modules that keeps none of them alive."""

    def __init__(self) -> None:
        self._by_id: dict[int, weakref.ref[nn.Module]] = {}

    def add(self, modules: Iterable[nn.Module]) -> None:
        """Add some."""
        self._by_id.update((id(each), weakref.ref(each)) for each in modules)

    def __contains__(self, module: nn.Module) -> bool:
        found = self._by_id.get(id(module))
        return found is not None and found() is module


class CalledModels:
    """Finds the models among the modules that are called, and knows which of them are watched."""

    def __init__(self) -> None:
        self._roots: list[nn.Module] = []
        self._names: dict[int, str] = {}
        self._seen = WeakModules()  # those that were called, and all around and inside them
        self._looked_at = WeakModules()  # those that no optimiser held when they were called without gradient
        self._watched: set[int] = set()  # modules in the models that are watched
        self._held: set[int] = set()  # tensors of the models that are watched
        self._without_weights: Counter[type] = Counter()  # calls of modules that were not seen, by class

    def __bool__(self) -> bool:
        """Whether a model was found."""
        return bool(self._roots)

    @property
    def roots(self) -> Sequence[nn.Module]:
        """The models."""
        return self._roots

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of all models."""
        return (parameter for root in self._roots for parameter in root.parameters())

    def name(self, module: nn.Module) -> str | None:
        """The name of a model, "" if it is the only one; None for any other module."""
        if all(module is not root for root in self._roots):
            return None
        return self._names.get(id(module), "") if len(self._roots) > 1 else ""

    def is_training(self) -> bool:
        """Whether a model is in training mode."""
        return any(root.training for root in self._roots)

    def was_seen(self, module: nn.Module) -> bool:
        """Whether a module is one of those that were called with gradients, or around or inside one of them."""
        return module in self._seen

    def may_be_new(self, module: nn.Module, enabled: bool) -> bool:
        """Whether a module that is about to be called, and was not seen, may lead to a model."""
        if (not enabled and module in self._looked_at) or _is_nested():
            return False
        if next(module.parameters(), None) is not None:
            return True
        self._without_weights[type(module)] += 1  # such as a loss that is made anew in each step
        return is_power_of_two(self._without_weights[type(module)])

    def note(self, module: nn.Module, enabled: bool, live: LiveObjects) -> nn.Module | None:
        """Return the model that a called module belongs to, if it has something to train; else None.

        Args:
            module: One that is not inside a module that was called before.
            enabled: Whether it is called with gradients enabled.
            live: The objects of the program.
        """
        owner = live.owner(module)
        around = [*owner.modules(), *module.modules()]
        (self._seen if enabled else self._looked_at).add(around)
        weights = list(owner.parameters())
        trains = enabled and owner.training and any(weight.requires_grad for weight in weights)
        if not (trains or (weights and live.holding(weights))):
            return None
        self._seen.add(around)
        self._names[id(owner)] = live.name(owner)
        inside = {id(each) for each in owner.modules()}
        self._roots = [*(root for root in self._roots if id(root) not in inside), owner]
        return owner

    def watch_all(self) -> tuple[nn.Module, list[str] | None]:
        """Take all models as watched; return one model of all, and what to watch in it, None for the usual."""
        joined = self._join()
        self._held = {id(parameter) for parameter in self.parameters()}
        self._watched = {id(each) for root in self._roots for each in root.modules()}
        return joined

    def count_as_watched(self, model: nn.Module) -> None:
        """Take the tensors of a model as watched: updates of them are updates of the models."""
        self._held.update(map(id, model.parameters()))

    def is_watched(self, module: nn.Module) -> bool:
        """Whether a module is in a model that is watched."""
        return id(module) in self._watched

    @property
    def all_watched(self) -> bool:
        """Whether no model was found since the last ones were taken."""
        return all(map(self.is_watched, self._roots))

    def holds_watched(self, optimizer: Optimizer) -> bool:
        """Whether an optimiser holds a tensor of the models that are watched."""
        return not held_by([optimizer]).isdisjoint(self._held)

    def _join(self) -> tuple[nn.Module, list[str] | None]:
        if len(self._roots) == 1:
            return self._roots[0], None
        joined = nn.ModuleDict()
        watch: list[str] = []
        for root in self._roots:
            root = getattr(root, "_orig_mod", root)
            name = self._names.get(id(root), type(root).__name__).replace(".", "_")
            while name in joined or hasattr(joined, name):
                name += "_"
            joined[name] = root
            inside = select_modules(root, None) if any(True for _ in root.children()) else ()
            watch += [f"{name}.{each}" for each in inside] or [name]
        return joined, watch


def is_power_of_two(count: int) -> bool:
    """Whether a positive count is 1, 2, 4, 8, ...: to look into all objects costs as much as many a call."""
    return count & (count - 1) == 0


def _is_nested() -> bool:
    """Whether the module that is about to be called is called by another one."""
    frame, calls = sys._getframe(1), 0
    while frame.f_back is not None:
        frame = frame.f_back
        calls += frame.f_code is nn.Module._call_impl.__code__
    return calls > 1
