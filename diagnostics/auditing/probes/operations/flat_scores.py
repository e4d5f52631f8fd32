"""Whether the scores of a cross entropy stay nearly equal whatever the weights are, as cosines times a temperature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from diagnostics.auditing.probes.operations.placed import one_owner
from diagnostics.auditing.probes.operations.score_checks import ALWAYS_FLAT, SOFTMAX001
from diagnostics.auditing.replay import trace_step
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.auditing.tracing.recorded_calls import LossCall
from diagnostics.findings import Finding
from diagnostics.testing.trials import untouched

_FLAT = 0.5
"""Difference of two scores in one row: the likelier class is then at most 1.65 times as likely."""
_SIZE = 10.0
"""Size of other weights, relative to the root mean square of each tensor, or 1 / sqrt(inputs) where that is larger."""
_DRAWS = 3  # of the weights: one may happen to make all scores equal


def check_flat_scores(
    model: nn.Module,
    step: Callable[[nn.Module, Any], Any],
    batch: Any,
    optimizers: Sequence[Optimizer],
    traces: Sequence[OperationTrace],
    owner: Callable[[str], str],
) -> list[Finding]:
    """SOFTMAX001 where every step, and the last one with large random weights, has nearly equal scores.

    Args:
        traces: The repeated steps.
        owner: Function full name of a module -> the innermost watched module that contains it.
    """
    places = {call.operation.place for call in traces[0].losses.compared} if traces else set()
    flat = {place for place in places if all(_spread(trace, place) < _FLAT for trace in traces)}
    largest = dict.fromkeys(flat, 0.0)
    for seed in range(_DRAWS if flat else 0):
        with untouched(model, optimizers):
            _draw_large(model, seed)
            again = trace_step(model, step, batch, optimizers)
        for place in flat:
            spread = math.inf if again is None else _spread(again, place)
            largest[place] = max(largest[place], spread)
    calls = (
        call for call in traces[-1].losses.compared if largest.get(call.operation.place, math.inf) < _FLAT
    )
    first = next(calls, None) if traces else None
    if first is None:
        return []
    cause = ALWAYS_FLAT.of(spread=largest[first.operation.place], operation=first.operation)
    return [SOFTMAX001.found_once(one_owner(first.sources, owner), cause)]


@torch.no_grad()
def _draw_large(model: nn.Module, seed: int) -> None:
    """Draw all trainable weights anew, large also where they are nearly zero now."""
    torch.manual_seed(seed)
    for weight in model.parameters():
        if weight.requires_grad and weight.is_floating_point() and weight.numel():
            inputs = max(weight[0].numel() if weight.dim() > 1 else 1, 1)
            size = max(float(weight.square().mean().sqrt()), inputs**-0.5)
            weight.copy_(_SIZE * size * torch.randn_like(weight))


def _spread(trace: OperationTrace, place: str) -> float:
    """The largest difference of two scores in a row of the cross entropies in a place; infinite where there is none."""
    calls = [call for call in trace.losses.compared if call.operation.place == place]
    return max((_spread_of(call) for call in calls), default=math.inf)


def _spread_of(call: LossCall) -> float:
    scores = call.values
    if call.operation.name != "cross_entropy" or scores.dim() < 2 or not scores.numel():
        return math.inf
    spread = float((scores.amax(1) - scores.amin(1)).max())
    return spread if math.isfinite(spread) else math.inf
