"""Read and replace the context on its way from the module that makes it to the rest of the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from diagnostics.recording.tensors import tensors_in

Edit = Callable[[Tensor], Tensor]


def find_context(output: Any, rows: int) -> Tensor | None:
    """The first tensor of real numbers in an output that has the rows as first dimension."""
    for tensor in tensors_in(output):
        if tensor.is_floating_point() and tensor.dim() and tensor.shape[0] == rows:
            return tensor
    return None


def replace_tensor(output: Any, old: Tensor, new: Tensor) -> Any:
    """The output with one tensor replaced, wherever it occurs in tuples, lists and mappings."""
    if output is old:
        return new
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(replace_tensor(part, old, new) for part in output))
    if isinstance(output, (tuple, list)):
        return type(output)(replace_tensor(part, old, new) for part in output)
    if isinstance(output, Mapping):
        changed = {key: replace_tensor(value, old, new) for key, value in output.items()}
        return changed if type(output) is dict else type(output)(**changed)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        given = [part.name for part in dataclasses.fields(output) if part.init]
        return dataclasses.replace(
            output, **{name: replace_tensor(getattr(output, name), old, new) for name in given}
        )
    return output


@contextmanager
def edited_context(model: nn.Module, name: str, rows: int, edit: Edit) -> Iterator[None]:
    """Replace the context at the output of its module, before anything else sees it.

    Args:
        model: the model.
        name: name of the module that makes the context.
        rows: number of rows of the batch.
        edit: function from the context to what replaces it, with the same shape.
    """
    handle = add_context_edit(model, name, edit, first=True, rows=rows)
    try:
        yield
    finally:
        handle.remove()


def add_context_edit(
    model: nn.Module, name: str, edit: Edit, *, first: bool = False, rows: int | None = None
) -> Any:
    """Add a hook that replaces the context, and return its handle.

    Args:
        model: the model.
        name: name of the module that makes the context.
        edit: function from the context to what replaces it.
        first: whether the hook runs before those that exist.
        rows: number of rows; any by default.
    """

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        context = find_context(output, rows) if rows is not None else _find_any(output)
        return None if context is None else replace_tensor(output, context, edit(context))

    return model.get_submodule(name).register_forward_hook(hook, prepend=first)


@contextmanager
def captured_contexts(model: nn.Module, name: str, rows: int) -> Iterator[list[Tensor]]:
    """A list that collects the context of each call of its module, as it leaves the module."""
    found: list[Tensor] = []

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        context = find_context(output, rows)
        if context is not None:
            found.append(context.detach().clone())

    handle = model.get_submodule(name).register_forward_hook(hook)
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def captured_inputs(model: nn.Module, name: str, rows: int) -> Iterator[list[Tensor]]:
    """A list that collects the tensors given to a module that have the rows as first dimension."""
    found: list[Tensor] = []

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        for tensor in tensors_in((args, kwargs)):
            if tensor.is_floating_point() and tensor.dim() and tensor.shape[0] == rows:
                found.append(tensor.detach().clone())

    handle = model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def _find_any(output: Any) -> Tensor | None:
    return next(
        (tensor for tensor in tensors_in(output) if tensor.is_floating_point() and tensor.dim()), None
    )
