"""Whether each row at a loss meets the target of its own sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.auditing.probes.sample_origin import ORIGIN001, REORDERED
from diagnostics.auditing.replay import trace_step
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.auditing.tracing.recorded_calls import LossCall
from diagnostics.findings import Finding
from diagnostics.recording.tensors import map_tensors, tensors_in

_TRIED = 5  # samples, each of which costs a step
_WRONG = 2
"""Of these: in another order some samples are in their place by chance."""
_CHANGED = 1e-6
"""Relative change of a row from which it depends on a sample."""


def check_pairing(
    model: nn.Module,
    step: Callable[[nn.Module, Any], Any],
    batch: Any,
    optimizers: Sequence[Optimizer],
    samples: int,
) -> list[Finding]:
    """ORIGIN001 where the input of one sample changes the rows at the loss that have the targets of others.

    The rows that belong to a sample are read off the targets: the batch holds the same numbers, sample by sample. The
    step is then repeated with the input of that sample exchanged for that of another one.
    """
    if samples < 3:
        return []
    first = trace_step(model, step, batch, optimizers)
    if first is None or all(_rows_of(call, batch, samples) is None for call in first.losses.compared):
        return []
    wrong = 0
    for sample in range(0, samples, -(-samples // _TRIED)):
        partner = _find_partner(first, batch, samples, sample)
        again = trace_step(model, step, _exchanged(batch, samples, sample, partner), optimizers)
        if again is None or len(again.losses.compared) != len(first.losses.compared):
            return []
        wrong += _misplaced(first, again, batch, samples, sample)
    return [ORIGIN001.found_once("", REORDERED)] if wrong >= _WRONG else []


def _find_partner(trace: OperationTrace, batch: Any, samples: int, sample: int) -> int:
    """Another sample, of the same length where there is one: a step may sort its batch by it."""
    targets = [call.target.cpu() for call in trace.losses.compared]
    numbers = [
        tensor.cpu()
        for tensor in tensors_in(batch)
        if tensor.shape == (samples,)
        and not tensor.is_floating_point()
        and not any(_holds(tensor, each) for each in targets)
    ]
    others = [(sample + shift) % samples for shift in range(1, samples)]
    alike = (each for each in others if all(bool(number[each] == number[sample]) for number in numbers))
    return next(alike, others[0])


def _holds(tensor: Tensor, target: Tensor) -> bool:
    """Whether a tensor of the batch has the numbers of a target (on the host): the step may have moved them."""
    return tensor.shape == target.shape and torch.equal(tensor.cpu().to(target.dtype), target)


def _exchanged(batch: Any, samples: int, sample: int, partner: int) -> Any:
    """A copy of the batch in which one sample is its partner again."""

    def change(tensor: Tensor) -> Tensor:
        if not tensor.dim() or tensor.shape[0] != samples:
            return tensor
        changed = tensor.clone()
        changed[sample] = tensor[partner]
        return changed

    return map_tensors(batch, change)


def _rows_of(call: LossCall, batch: Any, samples: int) -> Tensor | None:
    """(rows,) the sample whose target each row of a loss has; None where the batch does not tell."""
    target = call.target.cpu()  # the batch may be on the host, and the loss on a device
    if target.dim() != 1 or call.values.shape[:1] != target.shape or len(target) % samples or call.made:
        return None
    for tensor in tensors_in(batch):
        if tensor.numel() != len(target) or not tensor.dim() or tensor.shape[0] != samples:
            continue
        rows, length = torch.arange(len(target)), len(target) // samples
        straight = tensor.cpu().reshape(samples, length).to(target.dtype)
        turned = straight.T.reshape(-1)
        if torch.equal(straight.reshape(-1), target):
            return None if length > 1 and torch.equal(turned, target) else rows // length
        if torch.equal(turned, target):
            return rows % samples
    return None


def _misplaced(first: OperationTrace, again: OperationTrace, batch: Any, samples: int, sample: int) -> bool:
    """Whether some loss has most of the rows that the exchanged sample changes at the targets of other samples."""
    return any(
        _is_elsewhere(call, other, _rows_of(call, batch, samples), sample)
        for call, other in zip(first.losses.compared, again.losses.compared, strict=True)
    )


def _is_elsewhere(call: LossCall, other: LossCall, rows: Tensor | None, sample: int) -> bool:
    if rows is None or call.values.shape != other.values.shape or not call.values.is_floating_point():
        return False
    sizes = (other.values - call.values).abs().reshape(len(rows), -1).amax(1).cpu()
    changed = sizes > _CHANGED * float(call.values.abs().max())
    own = rows == sample
    right = int((changed & own).sum())
    return bool(changed.any()) and 2 * right < int(own.sum()) and 2 * right < int(changed.sum())
