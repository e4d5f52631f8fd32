"""Calls whose shapes or types combine other elements than was meant: a column with a vector, exchanged dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from diagnostics.auditing.tracing.function_names import RESHAPES, plain_name
from diagnostics.auditing.tracing.origins.outputs import DECISION
from diagnostics.auditing.tracing.recorded_calls import Arrived, Exchange, Operation, PairCall
from diagnostics.auditing.tracing.torch_call import TorchCall

_ARITHMETIC = frozenset(
    ["add", "sub", "mul", "div", "truediv", "true_divide", "minimum", "maximum", "subtract", "multiply"]
)
_COMPARISONS = ("eq", "ne")
_CASTS = frozenset(["to", "type", "type_as", "half", "bfloat16"])
_FEW_DIGITS = (torch.float16, torch.bfloat16)
"""Types that do not hold every number from 257 or 2049 on."""
_FEWEST = 2  # rows of a column, from which pairs differ from rows


class ShapeCalls:
    """Calls on tensors of two shapes, views and casts.

    Attributes:
        pairs: Arithmetic of a column and a vector outside of all modules but the model.
        decisions: Comparisons of predictions (n,) with a column (n, 1), which is a matrix.
        exchanges: Views that exchange dimensions.
        other_views: Places of views that change the shape otherwise, to one of as many dimensions.
        merged: Where numbers that count up in steps of one become equal neighbours in a type of few digits.
    """

    def __init__(self) -> None:
        self.pairs: list[PairCall] = []
        self.decisions: list[PairCall] = []
        self.exchanges: list[Exchange] = []
        self.other_views: set[str] = set()
        self.merged: list[Operation] = []
        self._columns: dict[int, Tensor] = {}  # made of vectors

    def wants(self, name: str) -> bool:
        """All: a column may come from any function."""
        return True

    def note(self, call: TorchCall) -> None:
        """Note a call that made one tensor."""
        if not isinstance(call.result, Tensor):
            return
        self._note_pairs(call, call.result)
        if call.name.strip("_") in _COMPARISONS:
            self._note_decision(call, call.result)
        if call.name in ("view", "reshape"):
            self._note_view(call, call.result)
        if call.result.dtype in _FEW_DIGITS and _merges_counts(call, call.result):
            self.merged.append(call.operation())

    def _note_pairs(self, call: TorchCall, result: Tensor) -> None:
        given = call.pair
        if _is_column(result):
            made = plain_name(call.name) in RESHAPES and bool(given) and given[0].dim() == 1
            if made or any(self._is_made(each) for each in given):
                self._columns[id(result)] = result
        name = call.name.strip("_").removeprefix("r").removeprefix("i")
        if call.step.running or name not in _ARITHMETIC or not result.requires_grad or len(given) < 2:
            return
        column, vector = sorted(given, key=Tensor.dim, reverse=True)
        if not _is_column(column) or tuple(vector.shape) != (len(column),) or len(column) < _FEWEST:
            return
        if any(each.requires_grad and not call.step.flow.nearest([each]) for each in given):
            return  # a parameter, which has no samples
        shapes = (tuple(column.shape), tuple(vector.shape))
        sources = call.step.sources([result])
        meant = self._is_made(column)
        error = name in ("sub", "subtract") and not all(each.requires_grad for each in given)
        self.pairs.append(PairCall(call.operation(), shapes, result, meant, sources, Arrived(result), error))

    def _is_made(self, column: Tensor) -> bool:
        return self._columns.get(id(column)) is column

    def _note_decision(self, call: TorchCall, result: Tensor) -> None:
        """Note a comparison of predictions with a column that nobody made of a vector, as for all pairs."""
        given = call.pair
        if len(given) < 2 or result.dim() != 2:
            return
        column, vector = sorted(given, key=Tensor.dim, reverse=True)
        if not _is_column(column) or tuple(vector.shape) != (len(column),) or len(column) < _FEWEST:
            return
        origins = call.step.origins
        if not self._is_made(column) and DECISION in origins.of(column) | origins.of(vector):
            shapes = (tuple(column.shape), tuple(vector.shape))
            self.decisions.append(PairCall(call.operation(), shapes, result, meant=False))

    def _note_view(self, call: TorchCall, result: Tensor) -> None:
        before, after = tuple(call.args[0].shape), tuple(result.shape)
        if len(before) != len(after) or before == after:
            return
        if sorted(before) == sorted(after):
            self.exchanges.append(Exchange(call.operation(), before, after, result.requires_grad))
        else:
            self.other_views.add(call.place)


def _is_column(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and tensor.shape[1] == 1


def _merges_counts(call: TorchCall, result: Tensor) -> bool:
    """Whether a result counts places, and some neighbours are the same number although they were not before."""
    given = call.args[0] if call.args and isinstance(call.args[0], Tensor) else None
    if call.name == "arange":
        return bool((result.diff() == 0).any())
    if given is None or given.shape != result.shape or given.dtype == result.dtype or call.name not in _CASTS:
        return False
    return any(
        size > _FEWEST and bool((given.diff(dim=dim) == 1).all()) and bool((result.diff(dim=dim) == 0).any())
        for dim, size in enumerate(given.shape)
    )
