"""The tensors in what a module is given and returns, and the numbers that they hold."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diagnostics.causes import Cause
from diagnostics.recording.unknown_rows import OPAQUE_OUTPUT

_LARGE = (
    8_192  # elements from which two passes that use vector instructions are faster than one that does not
)
_PLAIN = (type(None), bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device)


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
    return [value] if isinstance(value, Tensor) else list(tensors_in(value))


def find_opaque(value: Any) -> Cause | None:
    """Why tensors may hide in a value, None where none can."""
    if isinstance(value, (Tensor, *_PLAIN)):
        return None
    if isinstance(value, Mapping):
        return next(filter(None, map(find_opaque, value.values())), None)
    if isinstance(value, (tuple, list)):
        return next(filter(None, map(find_opaque, value)), None)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = (getattr(value, item.name, None) for item in dataclasses.fields(value))
        return next(filter(None, map(find_opaque, members)), None)
    return OPAQUE_OUTPUT.of(type=type(value).__name__)


def address_of(tensor: Tensor) -> int:
    """Address of its numbers, which detach() keeps; -1 where it has none."""
    return tensor.data_ptr() if tensor.layout == torch.strided and tensor.numel() else -1


def stored_values(tensor: Tensor) -> Tensor:
    """The tensor itself; of a sparse one, as embeddings have for gradients, the values it holds."""
    return tensor.coalesce().values() if tensor.is_sparse else tensor


@torch.no_grad()
def measure_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The L2 norm of each, as scalars."""
    return list(torch._foreach_norm(list(tensors), 2)) if tensors else []


@torch.no_grad()
def count_nonzero(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The number of elements of each that are not zero, as scalars."""
    return [_count(tensor) for tensor in tensors]


def _count(tensor: Tensor) -> Tensor:
    fast = tensor.is_cpu and tensor.dtype == torch.float32 and _LARGE <= tensor.numel() < 2**24
    if not fast or not tensor.is_contiguous():
        return torch.count_nonzero(tensor)
    sign = torch.sign(tensor.view(-1))  # 0 for NaN, whose norm says that it is not finite
    return torch.dot(sign, sign)
