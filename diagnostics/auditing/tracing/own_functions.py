"""Records calls of the user's own autograd functions, with what their backward passes need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.autograd.function import Function

_MOST = 64
"""Calls that are kept in one step: the layers of a deep model."""


@dataclass(frozen=True, eq=False)
class FunctionCall:
    """One call of an own function that returned one tensor with a graph.

    Attributes:
        function: Its class.
        module: The innermost module whose forward pass ran, "" outside of all.
        context: What its backward pass is given first.
        compute: Its forward pass, a function of `args` or of a context and `args`.
        takes_context: Whether `compute` takes a context.
        args: What it was given.
        result: What it returned, without graph.
    """

    function: type[Function]
    module: str
    context: Any
    compute: Callable[..., Any]
    takes_context: bool
    args: tuple[Any, ...]
    result: Tensor


@contextmanager
def recording_functions(module: Callable[[], str]) -> Iterator[list[FunctionCall]]:
    """Record the calls of own functions in what runs inside.

    Args:
        module: Function that tells the innermost module whose forward pass runs.
    """
    calls: list[FunctionCall] = []

    def keep(
        function: type[Function], compute: Callable[..., Any], *, context: Any, args: Any, result: Any
    ) -> None:
        if isinstance(result, Tensor) and any(context.needs_input_grad) and len(calls) < _MOST:
            takes = not _prepares_later(function)
            calls.append(FunctionCall(function, module(), context, compute, takes, args, result.detach()))

    functions = list(_own_functions(Function))
    told = [_telling(function, keep) for function in functions]
    names = ["setup_context" if _prepares_later(function) else "forward" for function in functions]
    before = [function.__dict__.get(name) for function, name in zip(functions, names, strict=True)]
    for function, name, telling in zip(functions, names, told, strict=True):
        setattr(function, name, staticmethod(telling))
    try:
        yield calls
    finally:
        for function, name, method in zip(functions, names, before, strict=True):
            if method is None:
                delattr(function, name)  # inherited
            else:
                setattr(function, name, method)


def _own_functions(base: type[Function]) -> Iterator[type[Function]]:
    """The classes of functions that torch does not define."""
    for function in base.__subclasses__():
        if function.__module__.partition(".")[0] != "torch":
            yield function
        yield from _own_functions(function)


def _prepares_later(function: type[Function]) -> bool:
    """Whether its forward pass takes no context, which a method of its own fills."""
    return function.setup_context is not Function.setup_context


def _telling(function: type[Function], keep: Callable[..., None]) -> Callable[..., Any]:
    """The method of a function that sees the context, telling of its calls."""
    compute, prepare = function.forward, function.setup_context

    def prepare_and_tell(context: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        prepare(context, inputs, output)
        keep(function, compute, context=context, args=inputs, result=output)

    def compute_and_tell(context: Any, *args: Any) -> Any:
        result = compute(context, *args)
        keep(function, compute, context=context, args=args, result=result)
        return result

    return prepare_and_tell if _prepares_later(function) else compute_and_tell
