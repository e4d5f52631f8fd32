"""What the settings of a loss function say against the targets that it receives: smoothing, weights, the blank."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.auditing.tracing.recorded_calls import LossCall, Operation
from diagnostics.causes import Cause

SMOOTHED_AWAY = Cause(
    "smoothed-away",
    "label_smoothing is {smoothing:g}, so each target gives the other classes more weight than the right"
    " class: {operation}",
    remedy="label_smoothing is the share taken from the right class, usually 0.1.",
)
SEVERAL_CLASSES = Cause(
    "several-classes",
    "targets name {count:.2g} classes at once, but a softmax can give probability 1 to only one class: {operation}",
    remedy="Use binary_cross_entropy_with_logits for classes that do not exclude each other, or divide each target"
    " by its sum.",
)
WEIGHTS_ARE_FREQUENCIES = Cause(
    "weights-are-frequencies",
    "the class weights grow with the frequency of the class, so rare classes count even less: {operation}",
    remedy="Use the inverse frequencies; pos_weight is the number of negatives divided by the number of positives.",
)
BLANK_IN_TARGETS = Cause(
    "blank-in-targets",
    "a share of {share:.2g} of the targets is {blank}, the number of the blank: {operation}",
    remedy="Number the letters from 1, or set blank to a number that no letter has.",
)
CAUSES = (SMOOTHED_AWAY, SEVERAL_CLASSES, WEIGHTS_ARE_FREQUENCIES, BLANK_IN_TARGETS)

_MOST_SMOOTHING = 0.5
"""Share of the target that may go to other classes; papers use up to 0.2."""
_SEVERAL = 0.1
"""Share of the targets with several classes from which it is no accident."""
_ODDS = 3.0
"""Ratio of the frequencies, and of the weights, from which a relation between them is no chance."""
_NEAR = 0.35
"""Difference from 1 of the slope of log weights over log frequencies: 1 for frequencies, -1 for their inverse."""
_FEWEST = 8  # targets of the rarest class of two and more batches: their frequency is known to a third


def judge_arguments(traces: Sequence[OperationTrace]) -> Iterator[tuple[Operation, Cause]]:
    """The causes in the settings of loss functions that are called in every step, with where each is called."""
    every = [[*trace.losses.compared, *trace.losses.alignments] for trace in traces]
    for first in every[0] if every else ():
        place = first.operation.place
        alike = [[each for each in calls if each.operation.place == place] for calls in every]
        if not all(alike):
            continue
        calls = [each for group in alike for each in group]
        for judge in (_smoothed, _several, _weighted, _blanks):
            cause = judge(calls)
            if cause is not None:
                yield first.operation, cause


def _smoothed(calls: Sequence[LossCall]) -> Cause | None:
    smoothing = [each.settings.get("label_smoothing", 0.0) for each in calls]
    if min(smoothing) <= _MOST_SMOOTHING:
        return None
    return SMOOTHED_AWAY.of(smoothing=smoothing[0], operation=calls[0].operation)


def _several(calls: Sequence[LossCall]) -> Cause | None:
    if calls[0].operation.name != "cross_entropy" or any(
        not each.target.is_floating_point() for each in calls
    ):
        return None
    counts = [(each.target.movedim(1, -1) > 0.5).sum(-1).float() for each in calls if each.target.dim() > 1]
    if not counts or min(float((each > 1).float().mean()) for each in counts) < _SEVERAL:
        return None
    return SEVERAL_CLASSES.of(count=float(counts[0].mean()), operation=calls[0].operation)


def _weighted(calls: Sequence[LossCall]) -> Cause | None:
    """Whether the weights of classes are proportional to how often they occur, which is far from equal."""
    counted = [_odds(each) for each in calls]
    known = [each for each in counted if each is not None]
    if len(known) < len(calls) or any(each[0].shape != known[0][0].shape for each in known):
        return None
    weights, counts = known[0][0], torch.stack([each[1] for each in known]).sum(0)
    met = (counts >= _FEWEST) & (weights > 0)
    if int(met.sum()) < 2:
        return None
    low, high = counts[met].log(), weights[met].log()
    if min(float(low.max() - low.min()), float(high.max() - high.min())) < math.log(_ODDS):
        return None
    low, high = low - low.mean(), high - high.mean()
    slope = float((low * high).sum() / low.square().sum())
    rest = float((high - slope * low).square().sum() / high.square().sum())
    if abs(slope - 1.0) > _NEAR or rest > _NEAR**2:
        return None
    return WEIGHTS_ARE_FREQUENCIES.of(operation=calls[0].operation)


def _odds(call: LossCall) -> tuple[Tensor, Tensor] | None:
    """(K,) weights and (K,) numbers of targets of the classes; None where there are no weights."""
    name, target = call.operation.name, call.target
    weight = call.settings.get("weight" if name in ("cross_entropy", "nll_loss") else "pos_weight")
    if not isinstance(weight, Tensor):
        return None
    weight = weight.detach().double().flatten().cpu()
    if name == "binary_cross_entropy_with_logits" and weight.numel() == 1:
        positive = float((target > 0.5).sum())
        counts = torch.tensor([target.numel() - positive, positive], dtype=torch.double)
        return torch.cat([torch.ones(1, dtype=torch.double), weight]), counts
    if target.is_floating_point() or name == "binary_cross_entropy_with_logits":
        return None
    inside = target[(target >= 0) & (target < len(weight))].flatten().cpu()
    return weight, torch.bincount(inside, minlength=len(weight)).double()


def _blanks(calls: Sequence[LossCall]) -> Cause | None:
    shares = []
    for call in calls:
        lengths = call.settings.get("target_lengths")
        if call.operation.name != "ctc_loss" or lengths is None:
            return None
        blank, target = call.settings.get("blank", 0), call.target
        if target.dim() == 2:
            places = torch.arange(target.shape[1], device=target.device)
            target = target[places < torch.as_tensor(lengths, device=target.device)[:, None]]
        shares.append(float((target == blank).float().mean()))
    if not min(shares) > 0:
        return None
    blank = calls[0].settings.get("blank", 0)
    return BLANK_IN_TARGETS.of(share=shares[0], blank=blank, operation=calls[0].operation)
