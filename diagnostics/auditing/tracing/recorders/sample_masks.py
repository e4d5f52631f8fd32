"""Masks of samples in a loss: which rows a mean over some of the samples leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diagnostics.auditing.tracing.torch_call import TorchCall
from diagnostics.recording.tensors import is_dense

_PRODUCTS = ("mul", "multiply", "rmul", "imul")
_QUOTIENTS = ("div", "truediv", "true_divide", "divide", "itruediv")
_LOSSES = ("cross_entropy", "nll_loss")
_CLOSE = 1e-4
"""Relative difference between the sum of a mask and a divisor that has a small number added to it."""


@dataclass(frozen=True)
class SampleMask:
    """Rows that a loss leaves out on purpose.

    Attributes:
        place: Text that says by which operation.
        kept: (rows,) whether anything of a row counts.
    """

    place: str
    kept: Tensor


class SampleMasks:
    """Calls outside of all modules that leave samples out of a loss.

    Attributes:
        found: Masks whose sum divides the loss, that an index picks rows by, or that `ignore_index` makes of targets.
    """

    def __init__(self) -> None:
        self.found: list[SampleMask] = []
        self._products: list[tuple[SampleMask, float]] = []  # with the sum of the mask

    def wants(self, name: str) -> bool:
        """Those of products, quotients, indices and losses of classes."""
        return name.strip("_") in (*_PRODUCTS, *_QUOTIENTS, "getitem", *_LOSSES)

    def note(self, call: TorchCall) -> None:
        """Note a call on something that has a graph."""
        result, name = call.result, call.name.strip("_")
        if call.step.running or not isinstance(result, Tensor) or not result.requires_grad:
            return
        if name in _LOSSES:
            self._note_loss(call)
        elif len(call.args) > 1 and name in _PRODUCTS:
            self._note_product(call, result)
        elif len(call.args) > 1 and name in _QUOTIENTS and self._products:
            self._note_quotient(call.args[1])
        elif len(call.args) > 1 and name == "getitem" and _is_selection(call.args[1], result):
            self._keep(call.args[1], call)

    def _note_loss(self, call: TorchCall) -> None:
        """Targets that a loss of classes ignores leave samples out."""
        target, ignored = call.argument("target", 1), call.kwargs.get("ignore_index", -100)
        if not isinstance(target, Tensor) or target.is_floating_point() or not target.dim():
            return
        if bool((target == ignored).any()):
            self._keep(target != ignored, call)

    def _note_product(self, call: TorchCall, result: Tensor) -> None:
        for mask in (each for each in call.pair if not each.requires_grad):
            alike = mask.dim() > 0 and is_dense(mask) and mask.shape[:1] == result.shape[:1]
            if alike and not mask.is_complex() and bool((mask == 0).any()) and bool((mask >= 0).all()):
                kept = (mask != 0).reshape(len(mask), -1).any(1)
                self._products.append((SampleMask(str(call.operation()), kept), float(mask.sum())))

    def _note_quotient(self, divisor: Any) -> None:
        single = not isinstance(divisor, Tensor) or (divisor.numel() == 1 and not divisor.requires_grad)
        value = float(divisor) if single else 0.0
        self.found += [
            mask for mask, total in self._products if value and abs(total - value) <= _CLOSE * abs(value)
        ]

    def _keep(self, kept: Tensor, call: TorchCall) -> None:
        rows = kept.detach().reshape(len(kept), -1).any(1)
        self.found.append(SampleMask(str(call.operation()), rows))


def _is_selection(index: Any, result: Tensor) -> bool:
    """Whether an index is a mask of rows that leaves some out."""
    if not isinstance(index, Tensor) or index.dtype != torch.bool or not index.dim():
        return False
    return not bool(index.all()) and result.numel() > 0
