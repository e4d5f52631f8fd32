"""Loss functions of one step whose gradients differ by orders of magnitude, and predictions that are far off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import permutations, product
from typing import Any

from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.auditing.tracing.recorded_calls import Arrived, LossCall
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.rules.rule import WARNING, Family, Rule

DROWNED = Cause(
    "drowned",
    "the gradient at the input of {small} is {ratio:.1g} of the gradient at the input of {large}, both train"
    " the same weights, and no factor balances them",
    remedy="Scale the targets of the larger term to about 1, or give each term a factor.",
)
SUM_AND_MEAN = Cause(
    "sum-and-mean",
    "{total} sums over the {rows} samples of a batch, but {mean} averages over them, so their relative weight"
    " depends on the batch size",
    remedy="Reduce both in the same way: a sum for each sample, then the mean over the samples.",
)
LOSS007 = Rule(
    "LOSS007",
    WARNING,
    "One term of the loss dominates another",
    "operations",
    "Bring the terms to similar sizes.",
    source="audit",
    by_operations=True,
    arguments="audit",
    causes=(DROWNED, SUM_AND_MEAN),
    what="In each step two losses train the same weights; the gradient at the input of one is less than a hundredth of"
    " the other's, although its factor is no smaller, and it is not solved. Or a loss function that sums is added to a"
    " mean over the same samples, and neither is divided by their number.",
    why="The shared weights learn only for the larger term, and the sum still falls.",
    example="`cross_entropy(scores, kinds) + mse_loss(boxes, pixels)`, with boxes from 0 to 640.",
    false_alarms="A term that only trains a head of its own.",
)
FAMILY = Family(134, "Terms of the loss", (LOSS007,))
OUT_OF_REACH = Cause(
    "out-of-reach",
    "targets differ from the outputs by {distance:.2g}, but the outputs are only of size {size:.2g}: {operation}",
    remedy="Scale the targets to mean 0 and deviation 1, and scale the outputs back where they are used.",
)

_LITTLE = 1e-2
"""Ratio of the gradients: terms of healthy losses differ by factors of tens."""
_UNSOLVED = 0.5
"""Loss over that of a constant guess, from which a term has something left to learn."""
_FAR = 100.0
"""Distance of the targets in units of the outputs, or of 1: at a usual rate that is thousands of steps."""
_KEPT = 0.8
"""Share of the distance that is left between the first and the last recorded step, from which it is hardly reduced."""
_CLASSIFYING = ("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits")
_AVERAGED = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


def check_sizes(traces: Sequence[OperationTrace]) -> list[Finding]:
    """LOSS007 for the pair of loss functions that differs most, if it does in every trace."""
    worst: tuple[float, Cause] | None = None
    for small, large in permutations(_places(traces), 2):
        pairs = [(_calls(trace, small), _calls(trace, large)) for trace in traces]
        ratios = [_ratio(*pair) for pair in pairs]
        known = [each for each in ratios if each is not None]
        if (
            len(known) < len(traces)
            or max(known) >= _LITTLE
            or not all(_share_weights(*pair) for pair in pairs)
        ):
            continue
        first = (pairs[0][0][0].operation, pairs[0][1][0].operation)
        if worst is None or max(known) < worst[0]:
            worst = max(known), DROWNED.of(small=first[0], large=first[1], ratio=max(known))
    if worst is None:
        mixed = [_sum_and_mean(trace) for trace in traces]
        worst = (0.0, mixed[0]) if mixed and mixed[0] is not None and all(mixed) else None
    return [] if worst is None else [LOSS007.found_once("", worst[1])]


_UNDIVIDED = 0.5
"""Factor of a sum in the loss from which it was not divided by a number of samples."""
_ROWS = 8  # a batch of few samples may have as many rows as something else


def _sum_and_mean(trace: OperationTrace) -> Cause | None:
    """A loss function that sums over rows, and a mean of as many rows that is not multiplied by their number."""
    totals = [
        call
        for call in trace.losses.compared
        if call.settings.get("reduction") == "sum" and call.values.dim()
    ]
    for total, mean in product(totals, trace.losses.means):
        rows = len(total.values)
        factors = [_total(each.at_result, 1) for each in (total, mean)]
        if rows >= _ROWS and mean.rows == rows and factors[0] >= _UNDIVIDED and 0 < factors[1] < rows / 4:
            return SUM_AND_MEAN.of(total=total.operation, mean=mean.operation, rows=rows)
    return None


def far_targets(traces: Sequence[OperationTrace]) -> Iterator[LossCall]:
    """The calls whose targets the outputs are far from in each trace, and hardly come nearer to."""
    for place in _places(traces):
        calls = [_calls(trace, place) for trace in traces]
        if place[0] not in _AVERAGED or not all(calls):
            continue
        far = all(_is_far(each) for group in calls for each in group)
        if far and distance(calls[-1][0]) > _KEPT * distance(calls[0][0]):
            yield calls[-1][0]


def distance(call: LossCall) -> float:
    """Root of the mean squared difference of input and target."""
    return float((call.values - call.target).float().square().mean().sqrt())


def size(call: LossCall) -> float:
    """Root of the mean square of the input."""
    return float(call.values.float().square().mean().sqrt())


def _is_far(call: LossCall) -> bool:
    if call.values.shape != call.target.shape or not call.target.numel():
        return False
    return distance(call) > _FAR * max(size(call), 1.0)


Place = tuple[str, str]
"""Name of a loss function, and the line where it is called."""


def _place_of(call: LossCall) -> Place:
    return call.operation.name, call.operation.place


def _places(traces: Sequence[OperationTrace]) -> list[Place]:
    return list(dict.fromkeys(map(_place_of, traces[0].losses.compared))) if traces else []


def _calls(trace: OperationTrace, place: Place) -> list[LossCall]:
    return [each for each in trace.losses.compared if _place_of(each) == place]


def _ratio(small: Sequence[LossCall], large: Sequence[LossCall]) -> float | None:
    """Ratio of the gradients at the inputs; None where one has none, a smaller factor, or nothing left to learn."""
    sizes = [[_total(each.at_input, 2) for each in calls] for calls in (small, large)]
    factors = [[_total(each.at_result, 1) for each in calls] for calls in (small, large)]
    if not all(calls and all(calls) for calls in (*sizes, *factors)):
        return None
    if min(factors[0]) < max(factors[1]) or not all(map(_is_unsolved, small)):
        return None
    return math.hypot(*sizes[0]) / math.hypot(*sizes[1])


def _total(arrived: Arrived, order: int) -> float:
    return 0.0 if arrived.value is None else float(arrived.value.float().norm(order))


def _is_unsolved(call: LossCall) -> bool:
    """Whether a loss is at least half of that of a constant guess."""
    if call.result is None:
        return False
    value = float(call.result.detach().float().mean())
    if call.operation.name in _CLASSIFYING:
        classes = call.values.shape[1] if call.operation.name in ("cross_entropy", "nll_loss") else 2
        return value > _UNSOLVED * math.log(max(classes, 2))
    spread = float(call.target.float().var()) if call.target.numel() > 1 else 0.0
    return call.operation.name in _AVERAGED and distance(call) ** 2 > _UNSOLVED * spread


_MOST_NODES = 10_000  # of one walk, milliseconds


def _share_weights(small: Sequence[LossCall], large: Sequence[LossCall]) -> bool:
    one, other = (set().union(*(_leaves(each) for each in calls)) for calls in (small, large))
    return bool(one & other)


def _leaves(call: LossCall) -> set[Any]:
    """The nodes of the parameters that the input of a loss was computed from, as far as a walk gets."""
    waiting = [] if call.source is None or call.source.grad_fn is None else [call.source.grad_fn]
    seen: set[Any] = set(waiting)
    while waiting and len(seen) < _MOST_NODES:
        for node, _ in waiting.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                waiting.append(node)
    return {node for node in seen if hasattr(node, "variable")}
