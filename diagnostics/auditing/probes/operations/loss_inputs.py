"""What loss functions receive as their input: probabilities for logits, other shapes, dropped or misread scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diagnostics.auditing.probes.operations.placed import Placed
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.auditing.tracing.recorded_calls import LossCall
from diagnostics.causes import Cause

TWICE = Cause(
    "applied-twice",
    "its input is already the result of {kind}, which the function applies itself: {operation}",
)
NOT_LOGARITHMS = Cause(
    "not-logarithms", "the function expects log-probabilities, but its input is {found}: {operation}"
)
BROADCAST = Cause(
    "broadcast",
    "an input of shape {input} and a target of shape {target} broadcast, so the mean is over all pairs: {operation}",
)
EXCHANGED = Cause(
    "exchanged",
    "the target has a gradient, and the input is probabilities without gradient: {operation}",
    remedy="Exchange the arguments: the input comes first, then the target.",
)
CUT_OFF = Cause(
    "activation-on-logits",
    "its input is the result of relu(), so no logit is below 0: {operation}",
    remedy="End the model with a linear layer.",
)
CLAMPED_LOGITS = Cause(
    "clamped-logits",
    "clamp() makes probabilities of numbers of which a share of {share:.2g} is outside of 0 to 1 and gets no gradient:"
    " {operation}",
    remedy="Give the logits to binary_cross_entropy_with_logits(), or apply sigmoid() before clamp().",
)
DROPPED = Cause(
    "dropout-on-outputs",
    "its input is the result of a dropout, so each step sets a share of the outputs to 0: {operation}",
    remedy="Move the dropout before the last layer.",
)
CLASSES_MISREAD = Cause(
    "classes-misread",
    "the scores of one answer come from several rows of the previous layer: {operation}",
    remedy="Move the dimension of the classes with transpose(), permute() or movedim(); view() and reshape() do not"
    " move dimensions.",
)
NEVER_WRITTEN = Cause(
    "scores-never-written",
    "a share of {share:.2g} of the rows in the loss have only zeros as scores, which no operation has"
    " computed: {operation}",
    remedy="Leave these rows out of the loss, such as the first step of a decoder: scores[1:] against targets[1:].",
)
CAUSES = (
    TWICE,
    NOT_LOGARITHMS,
    BROADCAST,
    EXCHANGED,
    CUT_OFF,
    CLAMPED_LOGITS,
    DROPPED,
    CLASSES_MISREAD,
    NEVER_WRITTEN,
)

_SQUASHED = {
    "cross_entropy": ("softmax", "sigmoid"),
    "binary_cross_entropy_with_logits": ("sigmoid", "softmax"),
}
"""Loss -> what its input must not have passed through: it applies softmax or sigmoid itself."""
_CUT_OFF = dict.fromkeys(_SQUASHED, ("relu",))
"""Loss -> what would leave it only logits from 0 on."""
AVERAGED = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
_LOGARITHMIC = ("nll_loss", "kl_div")
_OTHER_SUM = 0.1
"""Distance from 1 of the sum of all classes, from which they are no probabilities: rounding is less."""
_OUTSIDE = 0.02
"""Share of the inputs outside of 0 to 1 in some step, from which it is no matter of rounding."""
_SUM = 1e-3  # distance from 1 of a sum of probabilities, in half precision


def judge_inputs(traces: Sequence[OperationTrace]) -> Iterator[Placed]:
    """What the losses of the first step receive as their input, and those of all steps in the same place."""
    for call in traces[0].losses.compared if traces else ():
        for cause in _judge_loss(call):
            yield (call.operation.module,), cause
        if call.kind in _CUT_OFF.get(call.operation.name, ()):
            yield call.sources[:1], CUT_OFF.of(operation=call.operation)
    for cause in (*_find_unwritten(traces), *_find_unnormalised(traces), *_find_clamped(traces)):
        yield (), cause


def _judge_loss(call: LossCall) -> Iterator[Cause]:
    name, operation = call.operation.name, call.operation
    if call.kind in _SQUASHED.get(name, ()):
        yield TWICE.of(kind=call.kind, operation=operation)
    if name in _LOGARITHMIC:
        positive = bool((call.values > 0).any())
        sums = _sum_of_classes(call) if name == "nll_loss" and not positive else 1.0
        if call.kind in ("softmax", "sigmoid") or (name == "nll_loss" and positive):
            yield NOT_LOGARITHMS.of(found=call.kind or "positive in places", operation=operation)
        elif abs(sums - 1) > _OTHER_SUM:
            yield NOT_LOGARITHMS.of(found=f"of classes that sum to {sums:.2g}", operation=operation)
    if name in AVERAGED and call.values.shape != call.target.shape:
        pairs = math.prod(torch.broadcast_shapes(call.values.shape, call.target.shape))
        if pairs > max(call.values.numel(), call.target.numel()):
            shapes = {"input": tuple(call.values.shape), "target": tuple(call.target.shape)}
            yield BROADCAST.of(**shapes, operation=operation)
    if name in _SQUASHED and call.learns_target and _are_probabilities(call.values, name):
        yield EXCHANGED.of(operation=operation)
    if call.kind == "dropout":
        yield DROPPED.of(operation=operation)
    if call.misread:
        yield CLASSES_MISREAD.of(operation=operation)


def _sum_of_classes(call: LossCall) -> float:
    """The middle sum of the exponentials over the classes; 1.0 where there is one class."""
    dim = -1 if call.operation.name == "ctc_loss" else 1
    values = call.values.float()
    if values.dim() <= 1 or values.shape[dim] < 2 or not values.numel():
        return 1.0
    return float(values.logsumexp(dim).median().exp())


def _find_unnormalised(traces: Sequence[OperationTrace]) -> Iterator[Cause]:
    """Losses of alignments that are given no probabilities over the classes."""
    every = [[_sum_of_classes(call) for call in trace.losses.alignments] for trace in traces]
    if every and all(sums and all(abs(each - 1) > _OTHER_SUM for each in sums) for sums in every):
        found = f"of classes that sum to {every[0][0]:.2g}"
        yield NOT_LOGARITHMS.of(found=found, operation=traces[0].losses.alignments[0].operation)


def _find_clamped(traces: Sequence[OperationTrace]) -> Iterator[Cause]:
    """Binary cross entropies of what clamp() limited to 0 to 1, in each step, and no sigmoid before."""
    for call in traces[0].losses.compared if traces else ():
        place = call.operation.place
        alike = [
            [each for each in trace.losses.compared if each.operation.place == place] for trace in traces
        ]
        shares = [max((each.outside for each in calls), default=-1.0) for calls in alike]
        if call.operation.name.startswith("binary") and min(shares) >= 0 and max(shares) > _OUTSIDE:
            yield CLAMPED_LOGITS.of(share=max(shares), operation=call.operation)
            return


def _are_probabilities(values: Tensor, loss: str) -> bool:
    """Whether all lie in 0 to 1, and sum to 1 over the classes of a cross entropy."""
    if not bool(((values >= 0) & (values <= 1)).all()):
        return False
    return loss != "cross_entropy" or values.dim() < 2 or bool((values.sum(1) - 1).abs().max() < _SUM)


def _find_unwritten(traces: Sequence[OperationTrace]) -> Iterator[Cause]:
    """Cross entropies that count rows without scores in each step, and rows with scores too."""
    for call in traces[0].losses.compared if traces else ():
        place = call.operation.place
        alike = [
            [each for each in trace.losses.compared if each.operation.place == place] for trace in traces
        ]
        calls = [each for group in alike for each in group]
        plain = not any(each.kind in ("dropout", "relu") for each in calls)
        if all(alike) and plain and all(0 < each.unwritten < 1 for each in calls):
            yield NEVER_WRITTEN.of(share=call.unwritten, operation=call.operation)
            return
