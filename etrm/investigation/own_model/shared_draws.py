"""Random numbers that are the same in every row, so that a random loss can be compared in another order of the rows."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PER_ELEMENT = {
    getattr(torch.ops.aten, name)
    for name in ("rand", "randn", "rand_like", "randn_like", "randint", "randint_like")
} | {
    getattr(torch.ops.aten, name)
    for name in ("uniform_", "normal_", "random_", "exponential_", "log_normal_", "cauchy_", "geometric_")
}
"""Functions that draw each element from one distribution."""
DROPOUT_MASK = torch.ops.aten.bernoulli_.float
"""The same for one probability; its other overloads have a probability per element."""


class SharedDraws(AbstractContextManager["SharedDraws"]):
    """Gives every row the random numbers of the first one, in each tensor that has the rows as a dimension.

    Attributes:
        complete: whether this covers everything that was drawn. Not covered are draws whose distribution can differ
            between rows, whole numbers that can be indices of rows, tensors in which rows and other dimensions are
            flattened to one, and the random numbers of numpy and Python.
    """

    def __init__(self, rows: int) -> None:
        self.complete = True
        self._mode = _SharingMode(rows, self._reject)

    def _reject(self) -> None:
        self.complete = False

    def __enter__(self) -> Self:
        self._outside = _read_outside_states()
        self._mode.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mode.__exit__(kind, error, trace)
        self.complete &= self._outside == _read_outside_states()


class _SharingMode(TorchDispatchMode):
    def __init__(self, rows: int, reject: Callable[[], None]) -> None:
        super().__init__()
        self.rows, self.reject = rows, reject

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        drawn = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            known = func.overloadpacket in PER_ELEMENT or func is DROPOUT_MASK
            if not known or not share_first_row(drawn, self.rows):
                self.reject()
        return drawn


def share_first_row(drawn: Tensor, rows: int) -> bool:
    """Copy the first entry of each dimension that has the size of the rows to the others; whether that is sound.

    Args:
        drawn: random numbers, changed in place.
        rows: number of rows of the batch.
    """
    if not drawn.is_floating_point() and bool((drawn < rows).all()):
        return drawn.numel() <= 1
    dimensions = [place for place, size in enumerate(drawn.shape) if size == rows]
    if not dimensions:
        return not any(size % rows == 0 for size in drawn.shape)
    first = drawn
    for place in dimensions:
        first = first.narrow(place, 0, 1)
    drawn.copy_(first.clone().expand_as(drawn))
    return True


def _read_outside_states() -> tuple[object, ...]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the state that user code draws from
    return random.getstate(), name, bytes(np.asarray(keys)), *rest
