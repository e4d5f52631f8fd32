"""How many samples are in a batch, or in what a model is given, by the shapes of its tensors."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from diagnostics.errors import InvalidValue
from diagnostics.recording.tensors import tensors_in

_SEVERAL = 3
"""Tensors from which a common dimension of all is that of the samples: two may be inputs and their positions."""


def count_samples(batch: Any) -> int:
    """The first dimension of the tensors of a batch.

    Raises:
        ValueError: They differ, or there is none.
    """
    sizes = {_shape(tensor)[0] for tensor in tensors_in(batch) if tensor.dim()}
    if len(sizes) != 1:
        raise InvalidValue(
            "auditing.samples-not-known",
            "the number of samples in a batch is not known: its tensors have the leading sizes {got}; give"
            " samples=lambda batch: ...",
            got=sorted(sizes),
        )
    return sizes.pop()


def guess_samples(batch: Any) -> int:
    """The most usual first dimension of its outermost tensors, at least 1; it never raises.

    Tensors further inside may be parts of one sample, as the boxes in a list of labels are.

    Where several tensors have different first dimensions, as sequences with the time first next to their lengths, it is
    the only size that all of them have among their first two and one has first. So it is if this is the first tensor,
    as a sequence next to the states of an LSTM, whose first dimension is that of its layers.
    """
    shapes = _outermost_shapes(batch)
    first = Counter(shape[0] for shape in shapes)
    common = set.intersection(*(set(shape[:2]) for shape in shapes)) & first.keys() if shapes else set()
    if len(shapes) >= _SEVERAL and len(common) == 1:
        (size,) = common
        if max(first.values()) == 1 or size == shapes[0][0]:
            return max(size, 1)
    return max(first.most_common(1)[0][0], 1) if first else 1


def _outermost_shapes(batch: Any) -> Sequence[tuple[int, ...]]:
    """The shapes of the tensors that are nested least deep, without scalars."""
    level = [batch]
    while level:
        shapes = [_shape(each) for each in level if isinstance(each, Tensor) and each.dim()]
        if shapes:
            return shapes
        level = [member for each in level for member in _members(each)]
    return ()


def _members(value: Any) -> Iterable[Any]:
    """What `tensors_in` looks into."""
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, (tuple, list)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, item.name, None) for item in dataclasses.fields(value)]
    return ()


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """Its shape; of a nested one the first dimension, as the others vary."""
    return (tensor.size(0),) if tensor.is_nested else tuple(tensor.shape)
