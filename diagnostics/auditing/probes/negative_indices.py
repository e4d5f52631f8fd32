"""Whether a loss depends on what -1 picks as an index, where it marks samples without a label or padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from diagnostics.auditing.tracing.torch_call import name_of, place_of
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.recording.tensors import as_number, tensors_in
from diagnostics.rules.rule import WARNING, Rule
from diagnostics.testing.trials import untouched

COUNTS_FROM_END = Cause(
    "counts-from-end",
    "the batch marks something by {mark}, which as an index means a place counted from the end, and the loss changes"
    " if it picks another: {name}() at {place}",
    remedy="Leave marked elements out of the loss, or give them an index of their own.",
)
ROWS005 = Rule(
    "ROWS005",
    WARNING,
    "A mark in the data is used as an index",
    "operations",
    "Leave marked elements out of the loss.",
    source="audit",
    arguments="audit",
    causes=(COUNTS_FROM_END,),
    what="In all repeated batches, one negative number is among indices that change from batch to batch, an integer"
    " tensor of the batch has it too, and the loss changes if it picks the first element instead.",
    why="torch reads -1 as the last place and reports no error, so the last class or row gets what nothing should.",
    example="`target[torch.arange(n), label] = 1` with the label -1 for boxes without a class.",
    false_alarms="Indices in which a negative number is meant to count from the end.",
)
_BATCHES = 2  # batches in which the indices differ
_SAME = 1e-6  # relative difference of two losses by rounding


class _Indexing(TorchFunctionMode):
    """Notes integer indices with a mark, and can let it pick the first element."""

    def __init__(self, marks: frozenset[int], replace: bool = False) -> None:
        super().__init__()
        self.marks, self.replace = marks, replace
        self.seen: dict[tuple[str, str, int], list[Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function, with other indices if they are to be replaced."""
        name = name_of(func)
        if name in ("__getitem__", "__setitem__") and len(args) > 1:
            args = (args[0], self._look(name, args[1]), *args[2:])
        return func(*args, **(kwargs or {}))

    def _look(self, name: str, index: Any) -> Any:
        if isinstance(index, tuple):
            return tuple(self._look(name, each) for each in index)
        if (
            not isinstance(index, Tensor)
            or index.is_floating_point()
            or index.dtype in (torch.bool, torch.uint8)
        ):
            return index
        with torch._C.DisableTorchFunction():
            mark = _mark_of(index)
            if mark not in self.marks:
                return index
            self.seen.setdefault((name, place_of(), mark), []).append(index.detach().clone())
            return index.clamp(min=0) if self.replace else index


def check_negative_indices(
    model: nn.Module,
    step: Callable[[nn.Module, Any], Any],
    batches: Sequence[Any],
    optimizers: Sequence[Optimizer],
) -> list[Finding]:
    """ROWS005; steps run again only for batches with a negative number among integers."""
    marks = frozenset(mark for batch in batches for mark in _marks(batch))
    if not marks or len(batches) < _BATCHES:
        return []
    with untouched(model, optimizers, keep_gradients=True):
        runs = [_run(model, step, batch, optimizers, _Indexing(marks)) for batch in batches]
    if any(value is None for value, _ in runs):
        return []
    for key in runs[0][1]:
        found = [seen.get(key, []) for _, seen in runs]
        if not all(found) or _are_alike([each[0] for each in found]):
            continue
        again, _ = _run(model, step, batches[-1], optimizers, _Indexing(frozenset([key[2]]), replace=True))
        before = runs[-1][0]
        if (
            again is not None
            and before is not None
            and abs(again - before) > _SAME * max(abs(before), abs(again))
        ):
            name, place, mark = key
            return [ROWS005.found_once("", COUNTS_FROM_END.of(mark=mark, name=name, place=place))]
    return []


def _run(
    model: nn.Module,
    step: Callable[[nn.Module, Any], Any],
    batch: Any,
    optimizers: Sequence[Optimizer],
    mode: _Indexing,
) -> tuple[float | None, dict[tuple[str, str, int], list[Tensor]]]:
    """The loss of a step, and its indices by function, place and mark; None where there is no finite loss."""
    with untouched(model, optimizers, keep_gradients=True), mode:
        try:
            found = step(model, batch)
            terms = list(found.values()) if isinstance(found, Mapping) else [found]
            value = sum(as_number(each) for each in terms)
        except Exception:  # noqa: BLE001 - the step ran before: it is this that it cannot do with
            return None, {}
    return (value, mode.seen) if math.isfinite(value) else (None, {})


def _marks(batch: Any) -> Iterator[int]:
    for tensor in tensors_in(batch):
        if not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool:
            mark = _mark_of(tensor)
            if mark is not None:
                yield mark


def _mark_of(values: Tensor) -> int | None:
    """The only negative number among integers that are not all alike, if there is one."""
    if not values.numel() or values.is_nested:
        return None
    lowest = int(values.min())
    others = values[values != lowest]
    return lowest if lowest < 0 and others.numel() and int(others.min()) >= 0 else None


def _are_alike(indices: Sequence[Tensor]) -> bool:
    return all(torch.equal(indices[0], each) for each in indices[1:])
