"""Selections that leave nothing of the data they are given: a condition is the same for all elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diagnostics.auditing.tracing.torch_call import TorchCall
from diagnostics.recording.tensors import is_dense

IN_PLACE = ("__setitem__", "masked_fill_")
"""Functions that write to the data, which are looked at before they are called."""
_FEWEST = 8
"""Elements whose conditions are not equal by chance."""


class SelectionCalls:
    """Calls that replace all of some data by one number.

    Attributes:
        emptied: Operation and shape of each, by file and line.
    """

    def __init__(self) -> None:
        self.emptied: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._written: Tensor | None = None

    def before(self, args: Sequence[Any]) -> None:
        """Look at what a function of `IN_PLACE` is about to write to."""
        self._written = None
        if len(args) == 3 and _is_data(args[0]) and _is_one_number(args[2]):
            self._written = args[0] if _is_true_for_all(args[1], args[0]) else None

    def wants(self, name: str) -> bool:
        """Those that select by a condition."""
        return name in ("where", "masked_fill", *IN_PLACE)

    def note(self, call: TorchCall) -> None:
        """Note a call that leaves nothing."""
        data = self._written if call.name in IN_PLACE else _left_out(call)
        if data is not None:
            self.emptied.setdefault(call.place, (str(call.operation()), tuple(data.shape)))


def _left_out(call: TorchCall) -> Tensor | None:
    """The data of which a new tensor takes nothing."""
    if len(call.args) != 3:
        return None
    if call.name == "masked_fill":
        data, condition, number = call.args
        return (
            data if _is_data(data) and _is_one_number(number) and _is_true_for_all(condition, data) else None
        )
    condition, one, other = call.args
    if not isinstance(condition, Tensor) or condition.dtype != torch.bool:
        return None
    pairs: tuple[tuple[Tensor, Any, Tensor], ...] = ((other, one, condition), (one, other, ~condition))
    for data, number, chosen in pairs:
        if _is_data(data) and _is_one_number(number) and _is_true_for_all(chosen, data):
            return data
    return None


def _is_data(value: Any) -> bool:
    """Whether these are different numbers that no weight has a part in."""
    known = isinstance(value, Tensor) and is_dense(value) and not value.requires_grad
    if not known or value.numel() < _FEWEST or not value.dim():
        return False
    return bool((value != value.flatten()[0]).any())


def _is_one_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() > 0 and is_dense(value) and bool((value == value.flatten()[0]).all())
    return isinstance(value, (int, float))


def _is_true_for_all(condition: Any, data: Tensor) -> bool:
    """Whether a condition with an element for each number, or for each row, is true for all of them.

    One decision that is expanded to all rows may be a draw for the whole batch.
    """
    known = isinstance(condition, Tensor) and condition.dtype == torch.bool and condition.dim() > 0
    fits = known and condition.numel() >= _FEWEST and len(condition) == len(data)
    return fits and condition.stride(0) != 0 and bool(condition.all())
