"""Whether the gradient of a part is the slope of the loss: differences of the loss along it need no backward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diagnostics.testing.trials import untouched
from etrm.investigation.comparison.gradient_check import LIKE
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import CheckedRow
from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.own_model.model_under_test import ModelUnderTest, RowBatch
from etrm.investigation.own_model.training_trial import TrainingTrial
from etrm.investigation.records import NotMeasured

STRIDES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Lengths of the step to either side, as shares of the norm of the weights. The measured slope next to that of the
backward pass counts: too short a step measures rounding, too long a step a curve."""
NOISE = 1e-6
"""Smallest relative change of the loss that is not rounding."""

SLOPE = Metric("own.slope-ratio", "gradient over the slope of the loss: {item}", Direction.HOLDS)


Gradients = dict[int, Tensor]
"""Gradients by the identity of their parameter."""


def compute_gradient(trial: TrainingTrial, number: int, batch: RowBatch) -> Gradients:
    """The gradient of the loss of a step, by a backward pass that leaves nothing behind."""
    with untouched(trial.model, trial.optimizers, keep_gradients=True):
        loss = trial.loss(number, batch)
        weights = list_trained(trial.model)
        found = torch.autograd.grad(loss, weights, allow_unused=True) if loss.requires_grad else ()
        return {
            id(p): g.detach().to_dense().clone()
            for p, g in zip(weights, found, strict=False)
            if g is not None
        }


def find_unused(trial: TrainingTrial) -> list[str]:
    """The modules with weights that the first step does not call and that get no gradient, such as spare embeddings.

    The named parts of the context are not among them: there it is a fault.
    """
    subject, called = trial.subject, set[int]()
    handles = [
        module.register_forward_pre_hook(lambda module, args: called.add(id(module)))
        for module in trial.model.modules()
    ]
    try:
        reached = compute_gradient(trial, 0, trial.batch(0))
    finally:
        for handle in handles:
            handle.remove()
    parts = [name for name in (subject.context_module, subject.context_consumer) if name]
    return [
        name
        for name, module in trial.model.named_modules()
        if name
        and id(module) not in called
        and (weights := list(module.parameters(recurse=False)))
        and not any(id(weight) in reached for weight in weights)
        and not any(name == part for part in parts)
    ]


def list_parts(subject: ModelUnderTest) -> list[str]:
    """The named parts that have weights to train, or the whole model."""
    named = [name for name in (subject.context_module, subject.context_consumer) if name]
    return [name for name in dict.fromkeys(named) if list_trained(subject.model.get_submodule(name))] or [""]


def list_trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module that take a gradient."""
    return [p for p in module.parameters() if p.requires_grad]


def check_slopes(factory: ModelFactory, seed: int) -> list[CheckedRow]:
    """Compare the gradient of each part with differences of the loss along it."""
    trial = TrainingTrial(factory, seed)
    batch, rows = trial.batch(0), []
    expected = compute_gradient(trial, 0, batch)
    for part in list_parts(trial.subject):
        name = part or "the model"
        if any(is_within(part, one) or is_within(one, part) for one in trial.subject.approximate):
            absent = NotMeasured(absent=f"the gradient of {name} is approximate on purpose")
            rows.append(CheckedRow(SLOPE.row(absent, threshold="", n="", item=part, item_words=name)))
            continue
        weights = [p for p in list_trained(trial.model.get_submodule(part)) if id(p) in expected]
        ratio = _measure_ratio(trial, batch, weights, [expected[id(p)] for p in weights])
        if ratio is None:
            continue  # no gradient, or no finite loss: other rows show it
        passed = LIKE[0] <= ratio <= LIKE[1]
        row = SLOPE.row(
            ratio,
            threshold=f"{LIKE[0]:g} to {LIKE[1]:g}",
            passed=passed,
            n="the first step",
            item=part,
            item_words=name,
        )
        rows.append(
            CheckedRow(row, f"the gradient of {name} is {ratio:.3g} times the slope of the loss along it")
        )
    return rows


def is_within(name: str, part: str) -> bool:
    """Whether a module or parameter belongs to a part; everything belongs to the whole model, ``""``."""
    return not part or name == part or name.startswith(f"{part}.")


def _measure_ratio(
    trial: TrainingTrial, batch: RowBatch, weights: Sequence[Tensor], gradient: Sequence[Tensor]
) -> float | None:
    """Norm of the gradient over the slope of the loss along it, at the length of step where the two are nearest."""
    length = sum(float(g.double().square().sum()) for g in gradient) ** 0.5
    size = sum(float(w.detach().double().square().sum()) for w in weights) ** 0.5
    if not length or length != length:
        return None
    ratios = []
    for share in STRIDES:
        stride = share * (size or 1.0) / length
        there, back = (_loss_moved(trial, batch, weights, gradient, sign * stride) for sign in (1, -1))
        moved = there - back
        if moved == moved and abs(moved) > NOISE * max(abs(there), abs(back)):
            ratios.append(length / (moved / (2 * stride * length)))
    if not ratios:
        return float("inf") if len(weights) else None
    return min(ratios, key=lambda ratio: (ratio <= 0, abs(math.log(abs(ratio)))))


def _loss_moved(
    trial: TrainingTrial, batch: RowBatch, weights: Sequence[Tensor], gradient: Sequence[Tensor], by: float
) -> float:
    with untouched(trial.model), torch.no_grad():
        for weight, g in zip(weights, gradient, strict=True):
            weight.add_(g, alpha=by)
        return float(trial.loss(0, batch).detach())
