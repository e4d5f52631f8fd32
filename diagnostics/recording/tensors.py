"""The tensors in what a module is given and returns, and the numbers that they hold."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_LARGE = (
    8_192  # elements from which two passes that use vector instructions are faster than one that does not
)
_MOST_SCRATCH = 2**20  # elements: 4 MB that stay allocated
_MOST_VIEWS = 64  # shapes of intermediate results


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


def list_tensors(value: Any) -> list[Tensor]:
    """The same as a list."""
    if isinstance(value, Tensor):
        return [value]
    if type(value) is tuple and all(isinstance(member, Tensor) for member in value):
        return list(value)
    return list(tensors_in(value))


def address_of(tensor: Tensor) -> int:
    """Address of its numbers, which detach() keeps; -1 where it has none."""
    return tensor.data_ptr() if tensor.layout == torch.strided and tensor.numel() else -1


def stored_values(tensor: Tensor) -> Tensor:
    """The tensor itself; of a sparse one, as embeddings have for gradients, the values it holds."""
    return tensor.coalesce().values() if tensor.is_sparse else tensor


def measure_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The L2 norm of each, as scalars."""
    if not tensors:
        return []
    if torch.is_grad_enabled():  # a look there costs less than to enter no_grad() once more
        with torch.no_grad():
            return list(torch._foreach_norm(list(tensors), 2))
    return list(torch._foreach_norm(list(tensors), 2))


def count_nonzero(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The number of elements of each that are not zero, as scalars."""
    if torch.is_grad_enabled():
        with torch.no_grad():
            return [_count(tensor) for tensor in tensors]
    return [_count(tensor) for tensor in tensors]


class _Scratch(threading.local):
    """Memory for intermediate results on the CPU: the same each time, so that it stays in the caches."""

    def __init__(self) -> None:
        self._memory: dict[torch.dtype, Tensor] = {}
        self._views: dict[tuple[torch.dtype, torch.Size], Tensor] = {}

    def like(self, tensor: Tensor) -> Tensor | None:
        """Memory for a result of this shape and type, None where it would be no faster."""
        size = tensor.numel()
        if not _LARGE <= size <= _MOST_SCRATCH or not tensor.is_cpu or tensor.layout != torch.strided:
            return None
        if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.is_complex():
            return None
        kind = (tensor.dtype, tensor.shape)
        known = self._views.get(kind)
        return self._view(size, kind) if known is None else known

    def _view(self, size: int, kind: tuple[torch.dtype, torch.Size]) -> Tensor:
        held = self._memory.get(kind[0])
        if held is None or held.numel() < size or len(self._views) >= _MOST_VIEWS:
            self._views = {}
            held = self._memory[kind[0]] = torch.empty(size, dtype=kind[0])
        view = self._views[kind] = held[:size].view(kind[1])
        return view


_SCRATCH = _Scratch()


def scratch_like(tensor: Tensor) -> Tensor | None:
    """Memory to pass as `out`, for a result that is read before the next one is computed."""
    return _SCRATCH.like(tensor)


def _count(tensor: Tensor) -> Tensor:
    fast = tensor.is_cpu and tensor.dtype == torch.float32 and _LARGE <= tensor.numel() < 2**24
    if not fast or not tensor.is_contiguous():
        return torch.count_nonzero(tensor)
    flat = tensor.view(-1)
    sign = torch.sign(flat, out=scratch_like(flat))  # 0 for NaN, whose norm says that it is not finite
    return torch.dot(sign, sign)
