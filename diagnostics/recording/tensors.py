"""The tensors in what a module is given and returns, and the numbers that they hold."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Scalars = Sequence[Tensor | float]
"""Scalars of one or several devices; on the host as floats."""

_COMPRESSED = {torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc}
_LARGE = 8_192  # elements from which two passes with vector instructions are faster than one without


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from tensors_in(member)
    elif isinstance(value, (tuple, list)):
        for member in value:
            yield from tensors_in(member)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            yield from tensors_in(getattr(value, item.name, None))


def is_captured(value: Any) -> bool:
    """Whether a value is a tensor of a GPU that captures a graph, in which nothing may be read."""
    return isinstance(value, Tensor) and value.is_cuda and torch.cuda.is_current_stream_capturing()


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nesting with every tensor changed, as far as `tensors_in` reaches; mappings become dictionaries.

    Args:
        value: What a module is given, which stays as it is.
        change: Function from a tensor to what replaces it.
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(member, change) for key, member in value.items()}
    if isinstance(value, (tuple, list)):
        members = [map_tensors(member, change) for member in value]
        return type(value)(*members) if hasattr(value, "_fields") else type(value)(members)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = copy.copy(value)
        for item in dataclasses.fields(value):
            member = map_tensors(getattr(value, item.name, None), change)
            object.__setattr__(changed, item.name, member)  # it may be frozen
        return changed
    return value


def list_tensors(value: Any) -> list[Tensor]:
    """The same as a list."""
    if isinstance(value, Tensor):
        return [value]
    if type(value) is tuple and len(value) == 1 and isinstance(value[0], Tensor):  # most calls of a module
        return [value[0]]
    return list(tensors_in(value))


def address_of(tensor: Tensor) -> int:
    """Address of its numbers, which detach() keeps; -1 where it has none."""
    return tensor.data_ptr() if tensor.layout == torch.strided and tensor.numel() else -1


def memory_of(tensor: Tensor) -> int:
    """Address of the memory that it is a view of; -1 where it has none."""
    address = address_of(tensor)
    return address - int(tensor.storage_offset()) * tensor.element_size() if address > 0 else -1


def is_transformed() -> bool:
    """Whether torch.func runs this code; the compiler takes any answer about its interpreters for one."""
    return (
        not torch.compiler.is_dynamo_compiling() and torch._C._functorch.peek_interpreter_stack() is not None
    )


def is_dense(tensor: Tensor) -> bool:
    """Whether it holds a number for each element: it is not sparse in any layout, not nested, and not without data."""
    return tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_meta


def stored_values(tensor: Tensor) -> Tensor:
    """The tensor itself; of a sparse one, as embeddings have for gradients, the values it holds."""
    if tensor.is_sparse:
        return tensor.coalesce().values()
    return tensor.values() if tensor.layout in _COMPRESSED else tensor


def real_view(values: Tensor) -> Tensor:
    """Complex numbers as their real and imaginary parts, in a last dimension of 2; other numbers as they are."""
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


def inner_product(one: Tensor, other: Tensor) -> Tensor:
    """The sum of the products of two tensors of one shape; of complex numbers its real part."""
    return (real_view(one) * real_view(other)).sum()


def as_number(value: Tensor | float) -> float:
    """A loss as a number."""
    return float(value.detach() if isinstance(value, Tensor) else value)


def measure_norms(tensors: Sequence[Tensor]) -> Scalars:
    """The L2 norm of each; on the CPU as floats."""
    return read_scalars(torch._foreach_norm(_without_graph(tensors), 2)) if tensors else []


def count_nonzero(tensors: Sequence[Tensor]) -> Scalars:
    """The number of elements of each that are not zero; on the CPU as floats."""
    return read_scalars([_count(tensor) for tensor in _without_graph(tensors)])


def read_scalars(scalars: Sequence[Tensor]) -> Scalars:
    """Scalars on the CPU as floats: nothing waits for them there, and they are in the caches now."""
    return [float(each) if each.is_cpu else each for each in scalars]


def _without_graph(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Gradients require gradient under create_graph; what is measured of them must not. no_grad() costs more."""
    return [tensor.detach() if tensor.requires_grad else tensor for tensor in tensors]


def _count(tensor: Tensor) -> Tensor:
    fast = tensor.is_cpu and tensor.dtype == torch.float32 and _LARGE <= tensor.numel() < 2**24
    if not fast or not tensor.is_contiguous():
        return torch.count_nonzero(tensor)
    flat = tensor.view(-1)
    sign = torch.sign(flat)  # 0 for NaN, whose norm says that it is not finite
    return torch.dot(sign, sign)
