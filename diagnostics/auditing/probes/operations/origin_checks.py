"""What the origins of numbers say: targets that mix samples, weights with a gradient, losses without a bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.auditing.tracing.origins.choice_probabilities import Ratio
from diagnostics.auditing.tracing.origins.origin_call import Product
from diagnostics.auditing.tracing.origins.outputs import BLENDED, LARGEST
from diagnostics.auditing.tracing.recorded_calls import LossCall, NearCall
from diagnostics.causes import Cause

LARGEST_OF_BATCH = Cause(
    "target-over-samples",
    "its target contains the largest output over all samples of the batch, the same number for each sample:"
    " {operation}",
    remedy="Give max() the dimension of the choices: values.max(1).values.",
)
CLASSES_BLENDED = Cause(
    "classes-interpolated",
    "its targets are class numbers that a resize interpolated, so a target can lie between two classes: {operation}",
    remedy='Resize masks with mode="nearest".',
)
MEAN_WEIGHED = Cause(
    "weight-of-mean",
    "the mean loss of the batch is multiplied by a function of its own exp(), so all samples have the same"
    " weight: {operation}",
    remedy='Compute the loss with reduction="none", weigh each sample, and take the mean at the end.',
)
NUMBER_WEIGHED = Cause(
    "weight-of-one-number",
    "one number for all samples, of their losses or log-probabilities, is multiplied by a weight for each sample, so"
    " that only the mean of the weights counts: {operation}",
    remedy='Keep a number per sample until it is weighed: reduction="none", or a sum over the other dimensions alone.',
)
WEIGHT_WITH_GRADIENT = Cause(
    "weight-not-detached",
    "log-probabilities of choices are multiplied by a weight that also has a gradient, so the module that"
    " computes the weight is trained through it: {operation}",
    remedy="Detach the advantage in the term of the policy.",
)
BOTH_TRAINED = Cause(
    "both-sides-trained",
    "the loss only pulls two outputs of the same weights together, and both receive gradient, so a constant"
    " output is optimal: {operation}",
    remedy="Detach the target, or add a term that keeps the results apart.",
)
SCORES_TOO_LARGE = Cause(
    "scores-too-large",
    "the loss is {ratio:.2g} times the loss of a guess among {classes} classes, because the scores have size"
    " {size:.2g}: {operation}",
    remedy="Normalise features before dividing them by a temperature, or reduce the weights before the scores.",
)
DIVIDED_BY_LOGITS = Cause(
    "divided-by-logits",
    "it divides by a sum of outputs of both signs, which may be 0, so the loss has no bound: {operation}",
    remedy="Turn the outputs into probabilities first: sigmoid() or softmax().",
)
RATIO_INVERTED = Cause(
    "ratio-inverted",
    "a weight of both signs is multiplied by the old probability over the new one, so good actions become"
    " less likely: {operation}",
    remedy="The ratio is exp(new log-probability - old log-probability).",
)
RATIO_OF_ONE = Cause(
    "ratio-of-one",
    "the ratio of new to old probabilities is 1 in every update with the same samples, because the old probabilities"
    " are computed again after each update, so the ratio is never clipped: {operation}",
    remedy="Compute the old log-probabilities once, before the first update with these samples.",
)
NOISE_SHIFTED = Cause(
    "noise-one-sided",
    "random numbers from 0 to 1 are scaled by a deviation and added to a mean, so each result lies above the"
    " mean: {operation}",
    remedy="Draw with randn_like(), whose mean is 0.",
)
DEVIATION_DETACHED = Cause(
    "deviation-detached",
    "detach() cuts the deviation of a noise that is added to a mean with a graph, so what is computed of the sample"
    " does not train the deviation: {operation}",
    remedy="Remove detach(): mean + deviation * torch.randn_like(mean).",
)
CAUSES = (
    RATIO_INVERTED,
    RATIO_OF_ONE,
    NOISE_SHIFTED,
    DEVIATION_DETACHED,
    DIVIDED_BY_LOGITS,
    LARGEST_OF_BATCH,
    CLASSES_BLENDED,
    MEAN_WEIGHED,
    NUMBER_WEIGHED,
    WEIGHT_WITH_GRADIENT,
    BOTH_TRAINED,
    SCORES_TOO_LARGE,
)
_GUESSES = 8.0
"""Loss over that of a uniform guess: a network at its start has about 1, a confident one that is wrong a few."""
_FEWEST = 8
"""Targets from which their mean loss says something."""
_AVERAGED = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
_MOST_NODES = 10_000  # of one walk, milliseconds

Found = dict[str, Cause]
"""By code."""
Judge = Callable[[OperationTrace], Found]


def judge_values(traces: Sequence[OperationTrace]) -> Iterator[Cause]:
    """The causes in what losses received, that hold in every trace."""
    yield from _common(traces, (_judge_targets, _judge_scores))


def judge_graphs(traces: Sequence[OperationTrace]) -> Iterator[Cause]:
    """The causes in the graphs of steps whose backward passes ran, that hold in every trace."""
    yield from _common(traces, (_judge_products, _judge_ratios, _judge_both_sides))


def _common(traces: Sequence[OperationTrace], judges: Sequence[Judge]) -> Iterator[Cause]:
    for judge in judges:
        causes = [judge(trace) for trace in traces]
        first = causes[0] if causes else {}
        for code, cause in first.items():
            if all(code in each for each in causes):
                yield cause


def _judge_targets(trace: OperationTrace) -> Found:
    found: Found = {}
    for call in trace.losses.compared:
        if LARGEST in call.target_origins and call.operation.name in _AVERAGED:
            found.setdefault(LARGEST_OF_BATCH.code, LARGEST_OF_BATCH.of(operation=call.operation))
        if BLENDED in call.target_origins and not call.target.is_floating_point():
            found.setdefault(CLASSES_BLENDED.code, CLASSES_BLENDED.of(operation=call.operation))
    return found


def _judge_products(trace: OperationTrace) -> Found:
    found: Found = {}
    products = (
        (MEAN_WEIGHED, trace.origins.losses.weighted_means),
        (NUMBER_WEIGHED, trace.origins.losses.weighted_numbers),
        (WEIGHT_WITH_GRADIENT, trace.origins.choices.weighted_scores),
        (DIVIDED_BY_LOGITS, trace.origins.outputs.divided),
        (RATIO_INVERTED, trace.origins.choices.inverted),
        (NOISE_SHIFTED, trace.origins.noise.shifted),
        (DEVIATION_DETACHED, trace.origins.noise.stopped),
    )
    for cause, every in products:
        used = [each for each in every if _is_used(each)]
        if used:
            found[cause.code] = cause.of(operation=used[0].place)
    return found


def _judge_ratios(trace: OperationTrace) -> Found:
    """A ratio that is 1 wherever samples are used again, after an update of the weights."""
    ratios = trace.origins.choices.ratios
    if not any(_has_known_weights(each, ratios) for each in ratios) or not all(
        each.is_one for each in ratios
    ):
        return {}
    return {RATIO_OF_ONE.code: RATIO_OF_ONE.of(operation=ratios[0].place)}


def _has_known_weights(ratio: Ratio, every: Sequence[Ratio]) -> bool:
    """Whether it belongs to samples that were used before an update: its weights are among those."""
    earlier = [each.weight.flatten() for each in every if each.updates < ratio.updates]
    if not earlier or len(ratio.weight.unique()) < _FEWEST:
        return False
    return bool(torch.isin(ratio.weight, torch.cat(earlier)).all())


def _is_used(product: Product) -> bool:
    return any(bool(each.any()) for each in product.gradient)


def _judge_both_sides(trace: OperationTrace) -> Found:
    used = [
        call
        for call in trace.losses.near
        if call.at_result.value is not None and bool(call.at_result.value.any())
    ]
    if not used or not all(_attracts(call) and _share_weights(call) for call in used):
        return {}
    alone = trace.added.only_through({call.result.grad_fn for call in used})
    return {BOTH_TRAINED.code: BOTH_TRAINED.of(operation=used[0].operation)} if alone else {}


def _attracts(call: NearCall) -> bool:
    """Whether a step against the gradient brings the two nearer, in every element."""
    gradient = call.at_result.value
    return gradient is not None and bool((call.nearer * gradient <= 0).all())


def _share_weights(call: NearCall) -> bool:
    one, other = (_leaves(each.grad_fn) for each in (call.one, call.other))
    return bool(one & other)


def _leaves(start: Any) -> set[Any]:
    """The nodes of the weights that a node was computed from, as far as a walk gets."""
    waiting = [] if start is None else [start]
    seen: set[Any] = set(waiting)
    while waiting and len(seen) < _MOST_NODES:
        new = [node for node, _ in waiting.pop().next_functions if node is not None and node not in seen]
        seen.update(new)
        waiting += new
    return {node for node in seen if hasattr(node, "variable")}


def _judge_scores(trace: OperationTrace) -> Found:
    for call in trace.losses.compared:
        ratio = _guesses(call)
        if ratio is not None and ratio > _GUESSES:
            size = float((call.values - call.values.mean(1, keepdim=True)).float().square().mean().sqrt())
            facts = {"ratio": ratio, "classes": call.values.shape[1], "size": size}
            return {SCORES_TOO_LARGE.code: SCORES_TOO_LARGE.of(**facts, operation=call.operation)}
    return {}


def _guesses(call: LossCall) -> float | None:
    """The mean cross entropy over that of a uniform guess."""
    values, target = call.values, call.target
    if call.operation.name != "cross_entropy" or target.is_floating_point() or values.dim() < 2:
        return None
    ignored = -100 if call.ignored is None else call.ignored
    known = (target >= 0) & (target != ignored)
    if int(known.sum()) < _FEWEST or values.shape[1] < 2:
        return None
    each = F.cross_entropy(values.float(), target, reduction="none", ignore_index=ignored)
    mean = float(each[known].mean())
    return mean / math.log(values.shape[1]) if math.isfinite(mean) else None
