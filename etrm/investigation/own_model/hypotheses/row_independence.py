"""Whether the loss of a step treats the rows of a batch as samples of their own: four metamorphic tests.

The loss does not depend on the order of the rows; the loss of a row does not depend on another row; the loss of a batch
lies between what its halves allow, a mean and a sum; and the demonstrations of one row do not change what the labels of
another one do to it. A fifth one tells whether it reads the demonstrations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from etrm.errors import ExtensionError
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.own_model.batch_rows import (
    count_rows,
    exchange_rows,
    list_readable,
    list_tensor_keys,
    make_wrong,
    reorder_entries,
    select_rows,
)
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import CheckedRow
from etrm.investigation.own_model.loss_probe import ROUNDING, LossProbe, are_close, list_changed
from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.own_model.model_under_test import ModelUnderTest, RowBatch
from etrm.investigation.own_model.shared_draws import SharedDraws
from etrm.investigation.own_model.training_trial import INSPECTED_STEPS, TrainingTrial
from etrm.investigation.records import NotMeasured

DRAWS = 8
"""Draws of the random numbers over which a random loss is averaged."""

EDITED_ROWS = 8
"""Rows that are edited one at a time."""
RANDOM_SLACK = 0.25
"""How far the loss of a batch may lie outside its limits where random numbers differ between a batch and its halves."""
PAIR_ROUNDING = 100
"""Largest change that counts as none, as a multiple of the rounding of the loss in its precision."""

ROW_ORDER = Metric("own.row-order", "loss of the same rows in another order", Direction.EQUAL)
OTHER_ROWS = Metric("own.other-rows", "rows whose loss depends on another row", Direction.LOWER)
HALVES = Metric("own.batch-halves", "loss of a batch, next to those of its halves", Direction.HOLDS)
PAIRS = Metric(
    "own.row-pairs",
    "change of what a row's labels do to the loss, by another row's demonstrations",
    Direction.LOWER,
)
UNREAD_KEY = Metric(
    "own.demonstration-key",
    "change of the loss by other values of a key of the demonstrations: {item}",
    Direction.HIGHER,
)
PREDICTED_KEY = Metric(
    "own.unread-by-step",
    "keys of the batch that predictions depend on, and the step's loss does not",
    Direction.LOWER,
)
MIXED = {metric.code for metric in (ROW_ORDER, OTHER_ROWS, HALVES, PAIRS)}
"""Codes of the rows that fail where the model mixes rows, as where a context is shared."""


def check_order(probe: LossProbe, batch: RowBatch) -> Iterator[CheckedRow]:
    """Whether the loss depends on the order of the rows: then something of a row is taken from its neighbour.

    If the loss is random, all rows get the same random numbers.
    """
    rows = count_rows(batch)
    draws = SharedDraws(rows) if probe.is_random(batch) else None
    orders = [torch.randperm(rows, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    own = probe.step_loss(batch, draws=draws)
    losses = [probe.step_loss(select_rows(batch, order), draws=draws) for order in orders]
    if draws is not None and not draws.complete:
        absent = NotMeasured(absent="the step draws random numbers that rows cannot share")
        yield CheckedRow(ROW_ORDER.row(absent, threshold="", n=""))
        return
    other = max(losses, key=lambda loss: abs(loss - own))
    passed = are_close(own, other)
    row = ROW_ORDER.row(other, control=own, threshold="the same", passed=passed, n=f"{rows} rows, 3 orders")
    words = f"the loss of a batch is {own:.4g}, and {other:.4g} with the same rows in another order"
    yield CheckedRow(row, words)


def check_other_rows(probe: LossProbe, batch: RowBatch) -> Iterator[CheckedRow]:
    """Whether the loss of a row depends on the content of another one."""
    subject = probe.subject
    if not subject.independent_rows:
        return
    if subject.sample_losses is None:
        yield CheckedRow(OTHER_ROWS.row(NotMeasured(absent="no sample_losses"), threshold="", n=""))
        return
    losses, rows = probe.sample_losses(batch), count_rows(batch)
    touched: set[int] = set()
    edits = range(min(rows, EDITED_ROWS))
    for place in edits:
        index = torch.arange(rows)
        index[place] = (place + 1) % rows
        keys = [key for key in list_tensor_keys(batch) if key != subject.ids]
        touched |= set(list_changed(losses, probe.sample_losses(exchange_rows(batch, keys, index)))) - {place}
    row = OTHER_ROWS.expect_none(len(touched), f"{rows} rows, {len(edits)} edits")
    yield CheckedRow(row, f"the loss of {len(touched)} of {rows} rows depends on the content of another row")


def check_halves(probe: LossProbe, batch: RowBatch) -> Iterator[CheckedRow]:
    """Whether the loss of a batch lies between the smaller one and the sum of the losses of its halves.

    A mean of the rows lies between the two losses and a sum is their sum, with or without terms of the weights alone.
    A loss of the whole batch that is counted once for each row is larger than both.
    """
    subject, rows = probe.subject, count_rows(batch)
    if not subject.independent_rows or rows < 4:
        return
    random = probe.is_random(batch)
    probes = [replace(probe, seed=probe.seed + 1000 * draw) for draw in range(DRAWS if random else 1)]
    halves = (range(rows // 2), range(rows // 2, rows))
    try:
        own, first, second = (
            sum(one.step_loss(part, unmixed=True) for one in probes) / len(probes)
            for part in (batch, *(select_rows(batch, half) for half in halves))
        )
    except ExtensionError:
        absent = NotMeasured(absent="the step does not take half a batch")
        yield CheckedRow(HALVES.row(absent, threshold="", n=""))
        return
    limits = sorted((first, second, first + second))
    slack = (RANDOM_SLACK if random else ROUNDING) * max(map(abs, limits))
    finite = all(map(math.isfinite, (own, *limits)))  # other rows show a loss that is not finite
    passed = limits[0] - slack <= own <= limits[-1] + slack if finite else None
    threshold = f"{limits[0]:.4g} to {limits[-1]:.4g}"
    row = HALVES.row(own, threshold=threshold, passed=passed, n=f"{rows} rows")
    words = f"the loss of a batch is {own:.4g}, and those of its halves are {first:.4g} and {second:.4g}"
    yield CheckedRow(row, words)


def check_pairs(probe: LossProbe, batch: RowBatch) -> Iterator[CheckedRow]:
    """Whether the demonstrations of one row change what the labels of another row do to the loss.

    In a mean or sum over rows they do not. In a loss of all pairs of rows, as where shapes (rows, 1) and (rows,) are
    broadcast, they do, though neither the order of the rows nor a single edit shows it.
    """
    subject, rows = probe.subject, count_rows(batch)
    keys = _find_inputs(subject, batch)
    if not (subject.independent_rows and subject.labels and keys and rows > 1):
        return
    wrong, edits = make_wrong(batch[subject.labels]), range(min(rows, EDITED_ROWS))
    crossed, size = 0.0, 0.0
    for place in edits:
        other = (place + 1) % rows
        index = torch.arange(rows)
        index[place] = other
        labels = batch[subject.labels].clone()
        labels[other] = wrong[other]
        moved = exchange_rows(batch, keys, index)
        losses = [
            probe.step_loss({**one, subject.labels: given}, unmixed=True)
            for one in (batch, moved)
            for given in (batch[subject.labels], labels)
        ]
        crossed = max(abs((losses[3] - losses[2]) - (losses[1] - losses[0])), crossed)
        size = max(*map(abs, losses), size)
    limit = PAIR_ROUNDING * probe.find_precision(batch) * size
    finite = math.isfinite(crossed) and math.isfinite(size)
    passed = crossed <= limit if finite else None
    n = f"{len(edits)} of {rows} rows"
    row = PAIRS.row(crossed, control=0.0, threshold=f"<= {limit:.2g}", passed=passed, n=n)
    what = "the demonstrations of a row change what the labels of another row do to the loss"
    yield CheckedRow(row, f"{what}, by {crossed:.2g}")


def check_demonstrations_read(
    factory: ModelFactory, probe: LossProbe, batch: RowBatch
) -> Iterator[CheckedRow]:
    """Whether the loss reads each key of the demonstrations, such as their labels.

    The values of one key are taken from other rows, and reordered within each row: labels whose order is the same in
    every row differ in the second way alone. If nothing is read, the context is at fault (H3).
    """
    subject = probe.subject
    keys = list_readable(subject, batch)
    if len(keys) < 2:
        return
    changes = {key: _measure_reading(probe, batch, key) for key in keys}
    if min(changes.values()) < ROUNDING:  # a gate of the context that starts at zero opens in a few steps
        trial = TrainingTrial(factory, probe.seed)
        for number in range(INSPECTED_STEPS):
            trial.step(number, trial.batch(number))
        trained = replace(probe, subject=trial.subject)
        changes = {key: max(change, _measure_reading(trained, batch, key)) for key, change in changes.items()}
    lost = bool(subject.context_module) and max(changes.values()) < ROUNDING
    for key, change in changes.items():
        passed = None if lost or not math.isfinite(change) else change >= ROUNDING
        row = UNREAD_KEY.row(
            change, threshold=f">= {ROUNDING:g}", passed=passed, n=f"{count_rows(batch)} rows", item=key
        )
        effect = f"changes the loss by {change:.2g} of it only" if change else "does not change the loss"
        yield CheckedRow(row, f"{key!r} of the demonstrations {effect}, whatever its values")


def check_predicted_keys(probe: LossProbe, batch: RowBatch) -> Iterator[CheckedRow]:
    """Whether the step reads every input that ``predict`` reads, so that training is on the task that is evaluated."""
    subject = probe.subject
    if subject.predict is None:
        return
    skipped = (subject.ids, subject.labels, *subject.demonstrations)  # other rows are about them
    keys = [key for key in list_tensor_keys(batch) if key not in skipped]
    own = probe.predict(batch)
    if not torch.equal(own, probe.predict(batch)):
        return  # H6 shows predictions that differ at a second call
    predicted = [key for key in keys if _is_predicted_by(probe, batch, key, own)]
    unread = [key for key in predicted if not _measure_reading(probe, batch, key)]
    words = f"the predictions depend on {', '.join(map(repr, unread))}, and the loss of the step does not"
    yield CheckedRow(
        PREDICTED_KEY.expect_none(len(unread), f"{len(keys)} keys", note=", ".join(unread)), words
    )


def _is_predicted_by(probe: LossProbe, batch: RowBatch, key: str, own: Tensor) -> bool:
    """Whether other values of a key change the predictions; not where predict refuses them."""
    try:
        return not torch.equal(own, probe.predict({**batch, key: batch[key].roll(1, 0)}))
    except ExtensionError:
        return False


def _measure_reading(probe: LossProbe, batch: RowBatch, key: str) -> float:
    """The largest relative change of the step's loss by other values of a key; infinite where it refuses them."""
    values = batch[key]
    others = (values.roll(1, 0), values.roll(2, 0), reorder_entries(values))
    own = probe.step_loss(batch)
    try:
        losses = [probe.step_loss({**batch, key: other}) for other in others]
    except ExtensionError:
        return math.inf
    return max(abs(loss - own) for loss in losses) / (abs(own) or 1.0)


def _find_inputs(subject: ModelUnderTest, batch: RowBatch) -> list[str]:
    """The demonstrations, or else the inputs that cannot be masks, which may weigh the rows of a mean."""
    given = [key for key in subject.demonstrations if isinstance(batch[key], Tensor)]
    others = (key for key in list_tensor_keys(batch) if key not in (subject.ids, subject.labels))
    return given or [key for key in others if not bool(((batch[key] == 0) | (batch[key] == 1)).all())]
