"""Whether ``predict`` is right on a batch that training has fitted; if not, it reads another output or mixes rows."""

from __future__ import annotations

import math
from statistics import fmean

import torch

from diagnostics.testing.trials import untouched
from etrm.device import to_device
from etrm.errors import ExtensionError
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.own_model.batch_rows import count_rows, exchange_rows
from etrm.investigation.own_model.hypotheses.answering_weights import scale_weights
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import CheckedRow
from etrm.investigation.own_model.loss_probe import LossProbe
from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.own_model.model_under_test import ModelUnderTest, RowBatch
from etrm.investigation.own_model.short_runs import MUCH_LONGER
from etrm.investigation.own_model.training_trial import TrainingTrial
from etrm.investigation.records import NotMeasured

FITTED = 0.1
"""Largest loss of a batch that counts as fitted, as a share of its loss with the labels of other rows."""
SMALLEST_GAIN = 0.25
"""Smallest score of a fitted batch, between that of the answers of other rows (0) and the best one (1). A model that
fits a batch so well is nearly always right on it, and guesses of a few rows are rarely so good."""
SHIFTS = (1, 2, 3)
"""Rows by which labels are moved to those of other rows."""
EVERY = 10
"""Training steps between two looks at the loss."""

GAIN = Metric("own.fitted-score", "score on a batch that training has fitted", Direction.HIGHER)


def lacks_fields(subject: ModelUnderTest) -> bool:
    """Whether the adapter gives too little for this check, or rows are related on purpose."""
    given = (
        subject.predict,
        subject.evaluate,
        subject.sample_losses,
        subject.labels,
        subject.independent_rows,
    )
    return not all(given) or not math.isfinite(subject.best_score)


def check_fitted_predictions(factory: ModelFactory, seed: int) -> CheckedRow:
    """Train on one batch, in evaluation mode compare its loss with that of other labels, and then the scores.

    An average of the weights follows them slowly, so that predictions that do not depend on the weights themselves are
    left out.

    Raises:
        ExtensionError: a function of the adapter raises or returns something else.
    """
    trial = TrainingTrial(factory, seed)
    batch = trial.batch(0)
    probe = LossProbe(trial.subject, seed)
    try:
        fitted = _fit(trial, probe, batch)
    except ExtensionError:  # a fault of the step, which other hypotheses name
        return _leave_out("the step raises an exception")
    if not fitted:
        return _leave_out("the steps do not fit one batch")
    predictions = probe.predict(batch)
    with untouched(trial.model):
        scale_weights(trial.model, 0)
        if torch.equal(predictions, probe.predict(batch)):
            return _leave_out("predictions do not follow the weights at once")
    own, other = (fmean(_score(probe, batch, shift) for shift in shifts) for shifts in ((0,), SHIFTS))
    reachable = trial.subject.best_score - other
    if not math.isfinite(own) or not math.isfinite(other) or not reachable:
        return _leave_out("the answers of other rows get the best score, or none")
    row = GAIN.row(
        own,
        control=other,
        threshold=f"{SMALLEST_GAIN:.0%} of the way to {trial.subject.best_score:g}",
        passed=(own - other) / reachable >= SMALLEST_GAIN,
        n=f"{count_rows(batch)} rows",
    )
    words = (
        f"predict gets the score {own:.4g} on a batch whose loss training has reduced to less than {FITTED:g} of that "
        f"with other labels, and {other:.4g} on the answers of other rows: it reads another output, or rows in another "
        "order"
    )
    return CheckedRow(row, words)


def _fit(trial: TrainingTrial, probe: LossProbe, batch: RowBatch) -> bool:
    """Train on one batch until it is fitted; whether it is."""
    for number in range(trial.subject.steps * MUCH_LONGER):
        if number % EVERY == 0 and is_fitted(probe, batch):
            return True
        trial.step(number, batch)
    return is_fitted(probe, batch)


@torch.no_grad()
def is_fitted(probe: LossProbe, batch: RowBatch) -> bool:
    """Whether the loss of a batch, in evaluation mode, is far below that with the labels of other rows."""
    labels, rows = probe.subject.labels, count_rows(batch)
    with untouched(probe.subject.model):
        probe.subject.model.eval()
        own = float(probe.sample_losses(batch).mean())
        orders = [torch.arange(rows).roll(shift) for shift in SHIFTS]
        other = fmean(
            float(probe.sample_losses(exchange_rows(batch, (labels,), order)).mean()) for order in orders
        )
    return 0 < other < math.inf and own <= FITTED * other


def _score(probe: LossProbe, batch: RowBatch, shift: int) -> float:
    """The score of the predictions, on the answers or on those of other rows."""
    subject = probe.subject
    assert subject.evaluate is not None
    answers = batch[subject.labels]
    return float(subject.evaluate(to_device(probe.predict(batch), answers.device), answers.roll(shift, 0)))


def _leave_out(reason: str) -> CheckedRow:
    return CheckedRow(GAIN.row(NotMeasured(absent=reason), threshold="", n=""))
