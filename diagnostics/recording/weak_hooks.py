"""Hooks with a weak reference to their monitor, so that it can be released.

A hook that refers to its monitor keeps it, and its copy of the weights, alive as long as the model. These refer
weakly: a forgotten monitor is released and then removes its hooks. A model that is pickled or copied takes a hook along
that does nothing, and that can be loaded where this package is not installed.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


class _LeftBehind:
    """A hook that a pickle or a copy of its module replaces by one that does nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        # an exit of the standard library that takes any positional arguments and returns None
        return getattr, (contextlib.nullcontext(), "__exit__")


class LocalHook(_LeftBehind):
    """Calls a function, as long as it is registered: the step that it watches may save its model."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *given: Any) -> Any:
        return self._function(*given)


class WeakHook(_LeftBehind):
    """Calls a method with fixed arguments before those of the hook, as long as its object lives."""

    def __init__(self, method: Callable[..., Any], *fixed: Any) -> None:
        assert isinstance(method, MethodType)
        self._owner = weakref.ref(method.__self__)
        self._function = method.__func__
        self._fixed = fixed

    def __call__(self, *given: Any) -> None:
        owner = self._owner()
        if owner is not None:
            self._function(owner, *self._fixed, *given)


@contextmanager
def hooks_aside(module: nn.Module) -> Iterator[None]:
    """Within the block, a module and those inside of it have no hook of the toolkit: torch.jit.script refuses them."""
    kept: list[tuple[dict[int, Any], dict[int, Any]]] = []
    for each in module.modules():
        for hooks in (each._forward_hooks, each._forward_pre_hooks):
            before = dict(hooks)
            for key in [key for key, hook in before.items() if isinstance(hook, _LeftBehind)]:
                del hooks[key]
            if len(hooks) < len(before):
                kept.append((hooks, before))
    try:
        yield
    finally:
        for hooks, before in kept:
            own = {key: hook for key, hook in before.items() if key in hooks or isinstance(hook, _LeftBehind)}
            after = own | hooks  # in the order that they had
            hooks.clear()  # a handle refers to this dictionary
            hooks.update(after)


def remove_hooks(handles: Sequence[RemovableHandle]) -> None:
    """Remove every hook of a monitor."""
    for handle in handles:
        handle.remove()
