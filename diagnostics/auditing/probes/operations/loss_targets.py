"""What loss functions receive as their targets: equal, out of range, shifted, drawn, or the input itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diagnostics.auditing.probes.operations.loss_inputs import AVERAGED
from diagnostics.auditing.probes.operations.placed import Placed
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.auditing.tracing.recorded_calls import LossCall
from diagnostics.causes import Cause
from diagnostics.recording.tensors import address_of

EQUAL_TARGETS = Cause("equal-targets", "all targets of all batches are {value:g}: {operation}")
TARGET_IS_INPUT = Cause("target-is-input", "each target is the input at the same position: {operation}")
NOT_SHIFTED = Cause(
    "not-shifted",
    "each target is the token at its own position, and the model reads no later token: {operation}",
    remedy="Shift the targets: logits[:, :-1] against tokens[:, 1:].",
)
SHIFTED_AGAIN = Cause(
    "shifted-again",
    "each target is {lag} positions after its output, although the model is causal: {operation}",
    remedy="Shift only once: the dataset, or a loss inside the model, already shifts.",
)
OUT_OF_RANGE = Cause(
    "out-of-range",
    "a share of {share:.2g} of the targets lies outside {low:g} to {high:g}, the range of {kind}(): {operation}",
    remedy="Scale the targets into the range, or end the model with a linear layer.",
)
NOT_PROBABILITIES = Cause(
    "not-probabilities",
    "targets from {low:g} to {high:g} are not probabilities, so the loss has no lower bound: {operation}",
    remedy="Give targets from 0 to 1: divide images by 255, and map -1 and 1 to 0 and 1.",
)
FINDS_ITSELF = Cause(
    "finds-itself",
    "the scores are similarities of each row with all rows, and the target of each row is the row itself:"
    " {operation}",
    remedy="Mask the diagonal, and let each row find its other view.",
)
ITSELF_AMONG_OTHERS = Cause(
    "itself-among-others",
    "the scores are similarities of each row with all rows, and each row is most similar to itself, which is"
    " not its target: {operation}",
    remedy="Mask the diagonal with minus infinity before the loss.",
)
ONE_CLASS = Cause(
    "one-class-per-batch",
    "all targets of a batch have one class, and each batch has another class: {operation}",
    remedy="Shuffle the data: DataLoader(..., shuffle=True).",
)
CLASS_IGNORED = Cause(
    "class-ignored",
    "ignore_index is {ignored}, but {operation} has a score for the class of this number, and a share of"
    " {share:.2g} of the targets is left out",
    remedy="Give padding a label of its own, such as -100.",
)
PADDING_COUNTED = Cause(
    "padding-counted",
    "a share of {share:.2g} of the targets is {padding}, the padding_idx of {module}, but these targets"
    " count: {operation}",
    remedy="Give cross_entropy ignore_index={padding}, or mask these places.",
)
ENDS_COUNTED = Cause(
    "row-ends-counted",
    "a share of {share:.2g} of the targets is {token}, which all rows of {module} end with several times, like padding:"
    " {operation}",
    remedy="Give cross_entropy ignore_index={token}, or mask these places; keep one end of sentence.",
)
TARGET_DRAWN = Cause(
    "target-drawn",
    "its target is a random draw of the step, and the model does not depend on this draw: {operation}",
    remedy="Draw once, and use the same tensor in the input and as the target.",
)
SCORE_DRAWN = Cause(
    "score-drawn-again",
    "the log-probability belongs to another draw than its weight in the loss, so its gradient is zero on"
    " average: {operation}",
    remedy="Draw once: score the action that was taken and rewarded.",
)
TARGET_NOT_LOGARITHMS = Cause(
    "target-not-logarithms",
    "log_target is set, but no target is below 0, so they are not logarithms of probabilities: {operation}",
    remedy="Give log_softmax() of the teacher, or leave log_target out.",
)
TARGET_IS_LOGARITHM = Cause(
    "target-is-logarithm",
    "the function expects probabilities as its target, but no target is above 0: {operation}",
    remedy="Give softmax() of the teacher; kl_div takes logarithms with log_target=True.",
)
NOT_SIGNS = Cause(
    "not-signs",
    "targets are {low:g} to {high:g}, but the function expects -1 and 1: {operation}",
    remedy="Give 2 * target - 1.",
)
CAUSES = (
    EQUAL_TARGETS,
    TARGET_IS_INPUT,
    NOT_SHIFTED,
    SHIFTED_AGAIN,
    OUT_OF_RANGE,
    NOT_PROBABILITIES,
    FINDS_ITSELF,
    ITSELF_AMONG_OTHERS,
    ONE_CLASS,
    CLASS_IGNORED,
    PADDING_COUNTED,
    ENDS_COUNTED,
    TARGET_DRAWN,
    SCORE_DRAWN,
    NOT_SIGNS,
    TARGET_NOT_LOGARITHMS,
    TARGET_IS_LOGARITHM,
)

_RANGES = {"sigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, math.inf)}
"""Last function of a model -> what it gives."""
_OUTSIDE = 0.1
"""Share of the targets outside the range from which it is no matter of outliers."""
_FAR = 1.5
"""Distance from one half from which even a single target is no noisy probability: 2 and more, or -1 and less."""
_ROUNDING = 1e-4  # relative to the largest score
_MARGIN = 1e-2  # targets at the end of the range are rounded, or have a little noise
_CLASSIFYING = ("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits")
_OF_PROBABILITIES = ("kl_div", "cross_entropy")
_ONE_CLASS = 8
"""Targets of a batch that must be equal: of two classes in equal shares, eight are in one batch of 128."""
_INSIDE = 0.05  # share of the ignored targets between others of their row; of padding at one end it is 0
_BATCHES = 2  # one batch may hold one class by chance
_TARGETS = 32
"""Targets that must be equal: of two classes of which one has 90 % of the data, 32 are equal in 3 % of the cases."""


def judge_targets(traces: Sequence[OperationTrace], samples: int) -> Iterator[Placed]:
    """What is wrong with the targets of each loss, and with those of all losses together."""
    for call in traces[0].losses.compared if traces else ():
        for cause in (*_judge_targets(call, traces), *_ignored_class(call, traces, samples)):
            yield (call.operation.module,), cause
        if call.operation.name == "cross_entropy" and call.copied:
            yield (call.operation.module,), TARGET_IS_INPUT.of(operation=call.operation)
    for cause in (*_equal_targets(traces), *_one_class(traces)):
        yield (traces[0].losses.compared[0].operation.module,), cause
    for cause in _find_unsigned(traces):
        yield (), cause


def _judge_targets(call: LossCall, traces: Sequence[OperationTrace]) -> Iterator[Cause]:
    """What is wrong with the targets of the calls in one place, if it is so in every step."""
    place = call.operation.place
    alike = [[each for each in trace.losses.compared if each.operation.place == place] for trace in traces]
    calls = [each for group in alike for each in group]
    if not all(alike) or any(not each.target.numel() for each in calls):
        return
    low, high = _RANGES.get(call.kind, (-math.inf, math.inf))
    name, operation = call.operation.name, call.operation
    if name in AVERAGED and all(each.kind == call.kind for each in calls):
        share = min(_share_outside(each.target, low - _MARGIN, high + _MARGIN) for each in calls)
        if share > _OUTSIDE:
            yield OUT_OF_RANGE.of(share=share, low=low, high=high, kind=call.kind, operation=operation)
    if name == "binary_cross_entropy_with_logits":
        outside = min(_share_outside(each.target, -_MARGIN, 1 + _MARGIN) for each in calls)
        far = all(bool(((each.target - 0.5).abs() > _FAR).any()) for each in calls)
        if outside > _OUTSIDE or far:
            least, most = float(call.target.min()), float(call.target.max())
            yield NOT_PROBABILITIES.of(low=least, high=most, operation=operation)
    if name in _OF_PROBABILITIES and all(each.target.is_floating_point() for each in calls):
        yield from _judge_logarithms(calls)
    if name == "cross_entropy" and all(map(_finds_itself, calls)):
        yield FINDS_ITSELF.of(operation=operation)
    if name == "cross_entropy" and all(map(_competes_with_itself, calls)):
        yield ITSELF_AMONG_OTHERS.of(operation=operation)


def _judge_logarithms(calls: Sequence[LossCall]) -> Iterator[Cause]:
    """Whether targets that should be logarithms of probabilities are none, or the other way round.

    The logarithms of all classes are 0 at most, and not all are 0; probabilities are the opposite.
    """
    operation = calls[0].operation
    if any(not bool(each.target.any()) for each in calls):
        return
    if all(each.settings.get("log_target", False) for each in calls):
        if all(bool((each.target >= 0).all()) for each in calls):
            yield TARGET_NOT_LOGARITHMS.of(operation=operation)
    elif all(bool((each.target <= 0).all()) for each in calls):
        yield TARGET_IS_LOGARITHM.of(operation=operation)


def _share_outside(targets: Tensor, low: float, high: float) -> float:
    return float(((targets < low) | (targets > high)).float().mean())


def _finds_itself(call: LossCall) -> bool:
    """Whether the scores are a matrix of similarities to itself, and the targets are on its diagonal."""
    return _is_symmetric(call) and bool(_on_diagonal(call.target).all())


def _competes_with_itself(call: LossCall) -> bool:
    """Whether they are, no target is on the diagonal, and it holds one number, which no other one exceeds."""
    if not _is_symmetric(call) or bool(_on_diagonal(call.target).any()):
        return False
    own = call.values.diagonal()
    margin = _ROUNDING * float(own.abs().max())
    return bool((own - own[0]).abs().max() <= margin) and bool((call.values <= own[:, None] + margin).all())


def _on_diagonal(target: Tensor) -> Tensor:
    return target == torch.arange(len(target), device=target.device)


def _is_symmetric(call: LossCall) -> bool:
    """Whether the scores compare each row with all rows, and the targets are numbers of rows."""
    scores, target = call.values, call.target
    square = scores.dim() == 2 and scores.shape[0] == scores.shape[1] > 2
    if not square or target.is_floating_point() or target.shape != scores.shape[:1]:
        return False
    known = scores.masked_fill(scores < -1e4, 0.0)  # masked ones
    size = float(known.abs().max())
    return size > 0 and bool((known - known.T).abs().max() <= _ROUNDING * size)


def _equal_targets(traces: Sequence[OperationTrace]) -> Iterator[Cause]:
    """Whether the data has one value as the target of all losses of all steps; a real target has at least two."""
    calls = [call for trace in traces for call in trace.losses.compared if call.operation.name != "kl_div"]
    values = [call.target.detach().flatten() for call in calls]
    if (
        len(traces) < _BATCHES
        or not values
        or any(call.made for call in calls)
        or any(not len(each) for each in values)
    ):
        return
    first = values[0][0]
    if sum(len(each) for each in values) < _TARGETS or not all(
        bool((each == first).all()) for each in values
    ):
        return
    if float(first) == 0.0 and _measure_residuals(traces):
        return
    yield EQUAL_TARGETS.of(value=float(first), operation=calls[0].operation)


def _measure_residuals(traces: Sequence[OperationTrace]) -> bool:
    """Whether zeros are no data, but what residuals are compared with: an equation is in the input of the loss.

    Data comes with a batch, while these are one tensor that the program keeps; and a loss on data receives what the
    model returned, not something computed from it and from other numbers.
    """
    losses = [trace.losses.compared for trace in traces]
    kept = [{address_of(call.held) for call in calls if call.held is not None} for calls in losses]
    regress = all(call.operation.name in AVERAGED for calls in losses for call in calls)
    return (
        regress
        and kept.count(kept[0]) == len(kept)
        and not any(all(c.alone for c in calls) for calls in losses)
    )


def _one_class(traces: Sequence[OperationTrace]) -> Iterator[Cause]:
    """Whether all classification targets of each step are equal, and other ones in another step."""
    seen = set()
    for trace in traces:
        calls = [call for call in trace.losses.compared if call.operation.name in _CLASSIFYING]
        values = torch.cat([call.target.flatten().double() for call in calls]) if calls else torch.zeros(0)
        if len(values) < _ONE_CLASS or bool((values != values[0]).any()) or any(call.made for call in calls):
            return
        if any(_is_one_row(given) for given in trace.reads.given):
            return  # one sample has one class
        seen.add(float(values[0]))
    first = next((call for trace in traces for call in trace.losses.compared), None)
    if len(traces) > _BATCHES and len(seen) > 1 and first is not None:
        yield ONE_CLASS.of(operation=first.operation)


def _is_one_row(given: Tensor) -> bool:
    several = given.is_floating_point() and given.dim() > 1 and len(given) > 1
    return several and bool((given == given[:1]).all())


def _ignored_class(call: LossCall, traces: Sequence[OperationTrace], samples: int) -> Iterator[Cause]:
    """A class that the loss ignores, where the ignored targets are no padding, and no mask that leaves out most."""
    classes = call.values.shape[1] if call.values.dim() > 1 else 0
    if call.ignored is None or not 0 <= call.ignored < classes:
        return
    place = call.operation.place
    calls = [each for trace in traces for each in trace.losses.compared if each.operation.place == place]
    hit = [each.target == call.ignored for each in calls if each.target.numel()]
    if not hit or any(each.numel() % samples for each in hit):
        return
    rows = torch.cat([each.reshape(samples, -1) for each in hit if each.numel() == hit[0].numel()])
    share = float(rows.float().mean())
    inside = rows if rows.shape[1] == 1 else rows & _has_others_around(rows)
    if not 0 < share < 0.5 or float(inside.sum()) <= _INSIDE * float(rows.sum()):
        return
    yield CLASS_IGNORED.of(ignored=call.ignored, operation=call.operation, share=share)


def _has_others_around(hit: Tensor) -> Tensor:
    """(rows, T): whether somewhere before and somewhere after a place there is one that is not hit."""
    others = (~hit).int()
    return (others.cumsum(1) > 0) & (others.flip(1).cumsum(1).flip(1) > 0)


def _find_unsigned(traces: Sequence[OperationTrace]) -> Iterator[Cause]:
    """Losses that take -1 and 1, and never receive a negative target."""
    for call in traces[0].losses.signed if traces else ():
        place = call.operation.place
        targets = [
            each.target for trace in traces for each in trace.losses.signed if each.operation.place == place
        ]
        values = torch.cat([each.flatten().float() for each in targets])
        if len(values) and bool((values >= 0).all()) and bool((values == 0).any()):
            low, high = float(values.min()), float(values.max())
            yield NOT_SIGNS.of(low=low, high=high, operation=call.operation)
