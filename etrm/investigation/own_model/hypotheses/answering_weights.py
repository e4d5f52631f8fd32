"""Whether ``predict`` answers with the weights that are trained, or with others that training never changes.

A moving average that each update changes answers with other weights too, and is no fault. So that even a slow average
changes a prediction, the weights are scaled while an update runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.testing.trials import untouched
from etrm.device import to_device
from etrm.errors import ExtensionError
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.own_model.batch_rows import count_rows, hash_rows, list_tensor_keys
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import CheckedRow
from etrm.investigation.own_model.hypotheses.loss_slopes import list_trained
from etrm.investigation.own_model.injected_faults import InjectedFault
from etrm.investigation.own_model.loss_probe import LossProbe, are_close
from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.own_model.model_under_test import ModelUnderTest, RowBatch
from etrm.investigation.own_model.short_runs import LONGER
from etrm.investigation.own_model.training_trial import INSPECTED_STEPS, TrainingTrial
from etrm.investigation.records import NotMeasured

BATCHES = 4
"""Batches that are predicted: classes of few rows can stay the same by chance."""
DRAWS = 3
"""Draws of other weights with which the predictions are compared."""
OTHER = (0.25, 4.0)
"""Smallest and largest factor of a weight. They are positive, so that a scale or a variance remains one."""
AT_UPDATE = (1.0, 1e6)
"""The same while an update runs: in one step, an average over 10,000 steps then becomes up to 100 times as large."""

ANSWERING = Metric(
    "own.answering-weights",
    "predictions that change with the trained weights, or by training",
    Direction.HIGHER,
)


def check_answering_weights(factory: ModelFactory, seed: int) -> CheckedRow:
    """Compare predictions with other weights; if none changes, train for as long as the unchanged short run.

    Raises:
        ExtensionError: a function of the adapter raises or returns something else.
    """
    trial = TrainingTrial(factory, seed)
    probe, batches = LossProbe(trial.subject, seed), [trial.batch(number) for number in range(BATCHES)]
    rows, steps = sum(map(count_rows, batches)), trial.subject.steps * LONGER
    own = _predict(probe, batches)
    for draw in range(DRAWS):
        with untouched(trial.model):
            scale_weights(trial.model, draw)
            if changed := _count_changed(own, _predict(probe, batches)):
                return _judge(changed, rows, steps)
    if not loss_responds(trial.subject):
        return _leave_out("the step's loss does not show that the trained weights matter")
    updates = _ScaledUpdates(trial)
    for number in range(steps):
        updates.step(number)
        due = number + 1 == steps or (number + 1).bit_count() == 1  # after 1, 2, 4, 8, ... steps
        if due and (changed := _count_changed(own, _predict(probe, batches))):
            return _judge(changed, rows, steps)
    if not updates.made:
        return _leave_out("no training step calls an optimiser")
    try:
        _run_scaled_steps(trial, steps)
    except ExtensionError:
        # the user's code may refuse such weights, and a step may be what updates an average
        return _leave_out("the step refuses the scaled weights")
    return _judge(_count_changed(own, _predict(probe, batches)), rows, steps)


def _run_scaled_steps(trial: TrainingTrial, steps: int) -> None:
    """Run steps without their updates on scaled weights, for an average that the step itself updates."""
    _scale(list_trained(trial.model), AT_UPDATE, 0)
    for number in range(min(steps, INSPECTED_STEPS)):
        trial.loss(number, trial.batch(number))


def loss_responds(subject: ModelUnderTest) -> bool:
    """Whether the loss changes with the trained weights, without which the check decides nothing.

    It does not if the step raises an exception, which is a fault that other hypotheses name.
    """
    batch, probe = subject.batch(0), LossProbe(subject)
    try:
        loss = probe.step_loss(batch)
        with untouched(subject.model):
            scale_weights(subject.model, 0)
            return not are_close(probe.step_loss(batch), loss)
    except ExtensionError:
        return False


def _judge(changed: int, rows: int, steps: int) -> CheckedRow:
    row = ANSWERING.row(changed, threshold="at least 1", passed=changed > 0, n=f"{rows} rows, {steps} steps")
    words = (
        f"the predictions for all {rows} rows are the same with other trained weights and after {steps} training "
        "steps: predict answers with weights that are not trained, such as a copy that no step updates (if the copy "
        f"is first updated after step {steps}, give more steps)"
    )
    return CheckedRow(row, words)


def _leave_out(reason: str) -> CheckedRow:
    return CheckedRow(ANSWERING.row(NotMeasured(absent=reason), threshold="", n=""))


def _predict(probe: LossProbe, batches: Sequence[RowBatch]) -> list[Tensor]:
    return [probe.predict(batch) for batch in batches]


def _count_changed(before: Sequence[Tensor], after: Sequence[Tensor]) -> int:
    """The rows that differ, by however little: weights that are not trained give the same bits."""
    return sum(
        int((one != other).reshape(len(one), -1).any(1).sum()) if one.shape == other.shape else len(one)
        for one, other in zip(before, after, strict=True)
    )


def scale_weights(model: nn.Module, draw: int) -> None:
    """Multiply each trained weight in place by a random factor between a quarter and four."""
    _scale(list_trained(model), OTHER, draw)


@torch.no_grad()
def _scale(weights: Sequence[Tensor], ends: tuple[float, float], draw: int) -> list[Tensor]:
    """Multiply each weight in place by a factor of its own; the factors."""
    generator = torch.Generator().manual_seed(draw)
    low, high = ends
    factors = []
    for weight in weights:
        share = torch.rand(weight.shape, generator=generator)
        factors.append(to_device(low * (high / low) ** share, weight.device))
        weight.mul_(factors[-1])
    return factors


class _ScaledUpdates:
    """Training steps in which the trained weights are scaled from before the optimiser's step to after the update."""

    def __init__(self, trial: TrainingTrial) -> None:
        self.trial, self.made = trial, 0
        self._weights, self._factors = list_trained(trial.model), list[Tensor]()
        for optimizer in trial.optimizers:
            optimizer.register_step_pre_hook(self._scale_once)

    @torch.no_grad()
    def step(self, number: int) -> None:
        """One training step. The gradient is that of the weights before they are scaled."""
        with torch.enable_grad():
            self.trial.update(self.trial.loss(number, self.trial.batch(number)))
        if self._factors:
            for weight, factor in zip(self._weights, self._factors, strict=True):
                weight.div_(factor)
            self._factors, self.made = [], self.made + 1

    def _scale_once(self, *_: Any) -> None:
        if not self._factors:  # the first of several optimisers
            self._factors = _scale(self._weights, AT_UPDATE, self.made)


def _repeat_answers(subject: ModelUnderTest) -> ModelUnderTest:
    """``predict`` repeats its first predictions for a batch, wherever its own weights are kept."""
    own, first = subject.predict, dict[tuple[str, ...], Tensor]()
    assert own is not None

    def predict(model: nn.Module, batch: RowBatch) -> Tensor:
        key = tuple(hash_rows(batch, list_tensor_keys(batch)))
        if key not in first:
            first[key] = own(model, batch)
        return first[key]

    return replace(subject, predict=predict)


STALE_COPY = InjectedFault(
    "stale-copy", "predict repeats its predictions from before training", _repeat_answers
)
