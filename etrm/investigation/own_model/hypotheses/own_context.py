"""H3 of an own model: the context is not used, not finite, or not that of the row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.testing.trials import untouched
from etrm.device import to_host
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.hypotheses.hypothesis import Statement
from etrm.investigation.own_model import injected_faults as faults
from etrm.investigation.own_model.adapter_functions import compute_loss
from etrm.investigation.own_model.batch_rows import count_rows, exchange_rows, take
from etrm.investigation.own_model.context_edits import captured_contexts, captured_inputs, edited_context
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import (
    CheckedRow,
    InspectedHypothesis,
    InspectedModel,
)
from etrm.investigation.own_model.loss_probe import ROUNDING, LossProbe, changes_alone, stop_mixing
from etrm.investigation.own_model.model_factory import ModelFactory, seed_everything
from etrm.investigation.own_model.model_under_test import ModelUnderTest, RowBatch
from etrm.investigation.own_model.training_trial import INSPECTED_STEPS, TrainingTrial
from etrm.investigation.records import NotMeasured

EDITED_ROWS = 4
"""Rows that are edited one at a time."""
DONORS = 3
"""Other rows whose context or demonstrations an edited row gets."""
SMALLEST_LOSS = 0.01
"""Share of the mean loss below which a row is edited only if there are too few others: its loss is saturated."""
SMALLEST_SHARE = 1e-6
"""Smallest share of the power of the context that differs between rows: above the rounding of single precision."""

FINITE = Metric("own.context-not-finite", "numbers of the context that are not finite", Direction.LOWER)
DISTINCT = Metric("own.context-share", "share of the context that differs between rows", Direction.HIGHER)
USED = Metric("own.context-use", "change of the loss by the contexts of other rows", Direction.HIGHER)
OWN = Metric("own.context-rows", "rows whose context changes their own loss, and no other", Direction.EQUAL)
MADE = Metric(
    "own.demonstration-rows",
    "rows whose demonstrations change their own context, and no other",
    Direction.EQUAL,
)
READ = Metric(
    "own.demonstration-use", "change of the loss by the demonstrations of other rows", Direction.HIGHER
)
PREDICTED = Metric(
    "own.demonstration-predictions",
    "predictions that change with the demonstrations of other rows",
    Direction.HIGHER,
)
LOSS_ROWS = Metric(
    "own.demonstration-loss", "rows whose demonstrations change their own loss, and no other", Direction.EQUAL
)
RECEIVED = Metric(
    "own.context-received", "rows whose context changes what the consumer receives", Direction.EQUAL
)
OLD = Metric("own.old-context", "change of a context by an earlier batch", Direction.LOWER)
SIZE = Metric("own.context-size", "root mean square of the context")


class OwnContext(InspectedHypothesis):
    """H3 of an own model."""

    next_step = (
        "Check the code between the context module and its consumer: page H3 names the test that fails."
    )
    statement = Statement(
        id="H3",
        title="Context interface",
        statement="The context is not used, is not finite, or belongs to another row.",
        refuted_by=(
            "The context is finite and differs between rows; the context of another row changes the loss; the context "
            "and the demonstrations of a row change only its own loss; predictions depend on the demonstrations; an "
            "earlier batch changes nothing."
        ),
        mechanism=(
            "A context that is lost, averaged over the batch, shifted between rows or kept from an earlier batch is "
            "noise to the rest of the model, which learns to ignore it."
        ),
        kind="mechanistic",
        would_change="One row that fails a test, or a test that the adapter does not allow yet.",
    )

    def find_missing(self, subject: ModelUnderTest) -> str:
        """What the tests need at least."""
        if not subject.context_module:
            return "the adapter gives no context_module"
        batch = subject.batch(0)
        if count_rows(batch) < 2:
            return "a batch has one row, so that there is no other context"
        if _Contexts(subject, 0).read(batch) is None:
            return f"{subject.context_module} returns no tensor of numbers with the rows as first dimension"
        return ""

    def list_faults(self, subject: ModelUnderTest) -> tuple[faults.InjectedFault, ...]:
        """One context for all rows, a row without a number, and contexts of other rows where rows can be told apart."""
        found = [faults.SAME_CONTEXT, faults.NOT_FINITE_CONTEXT]
        if subject.demonstrations or (subject.sample_losses and subject.independent_rows):
            found.append(faults.OTHER_CONTEXT)
        return tuple(found)

    def inspect(self, factory: ModelFactory, seed: int) -> InspectedModel:
        """Test the context of a fresh model and of one that was trained a little; each use counts at its largest."""
        trial = TrainingTrial(factory, seed)
        batch, other = trial.batch(0), trial.batch(1)
        fresh = _measure_use(_Contexts(trial.subject, seed), batch)
        for number in range(INSPECTED_STEPS):
            trial.step(number, trial.batch(number))
        contexts = _Contexts(trial.subject, seed)
        trained = _measure_use(contexts, batch)
        return InspectedModel(
            (
                *_check_values(contexts, batch),
                *_check_use(fresh, trained, count_rows(batch)),
                *_check_predictions(contexts, [batch, other], trained[1] or 0.0),
                *_check_rows(contexts, batch),
                *_check_received(contexts, batch),
                *_check_old(contexts, batch, other),
            )
        )


@dataclass(frozen=True)
class _Contexts:
    """Reads and edits the context of a model that is not trained meanwhile."""

    subject: ModelUnderTest
    seed: int

    @property
    def name(self) -> str:
        return self.subject.context_module

    @torch.no_grad()
    def read(self, batch: RowBatch, before: tuple[RowBatch, ...] = ()) -> Tensor | None:
        """The first context of a step, as it leaves its module; float64, None if there is none."""
        model = self.subject.model
        with untouched(model):
            stop_mixing(model)
            for earlier in before:
                seed_everything(self.seed, 3)
                compute_loss(self.subject, earlier)
            with captured_contexts(model, self.name, count_rows(batch)) as found:
                seed_everything(self.seed, 4)
                compute_loss(self.subject, batch)
        return to_host(found[0]).double() if found else None

    def losses(self, batch: RowBatch, edit: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The loss of each row, or that of the step, with an edited context."""
        probe = LossProbe(self.subject, self.seed)

        def measure() -> Tensor:
            if self.by_row:
                return probe.sample_losses(batch)
            return torch.tensor([probe.step_loss(batch)], dtype=torch.float64)

        if edit is None:
            return measure()
        with edited_context(self.subject.model, self.name, count_rows(batch), edit):
            return measure()

    @property
    def by_row(self) -> bool:
        """Whether the losses are those of the rows, each of its own."""
        return self.subject.sample_losses is not None


def _measure_use(contexts: _Contexts, batch: RowBatch) -> tuple[float, float | None]:
    """Change of the loss by the contexts and by the demonstrations of other rows, relative to the loss."""
    own, rows = contexts.losses(batch), count_rows(batch)
    shifts = range(1, min(3, rows - 1) + 1)
    used = max(_relate(own, contexts.losses(batch, _shift_rows(shift))) for shift in shifts)
    keys = contexts.subject.demonstrations
    if not keys:
        return used, None
    orders = [torch.arange(rows).roll(shift) for shift in shifts]
    return used, max(_relate(own, contexts.losses(exchange_rows(batch, keys, order))) for order in orders)


def _shift_rows(by: int) -> Callable[[Tensor], Tensor]:
    return lambda context: context.roll(by, 0)


def _take_rows(index: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda context: take(context, index)


def _relate(own: Tensor, other: Tensor) -> float:
    size = float(own.abs().mean())
    change = float((other - own).abs().mean())
    return change / size if size else change


def _check_values(contexts: _Contexts, batch: RowBatch) -> Iterator[CheckedRow]:
    context = contexts.read(batch)
    if context is None:
        return
    rows, bad = len(context), int((~context.isfinite()).sum())
    n = f"{rows} rows"
    yield CheckedRow(
        FINITE.expect_none(bad, n), f"{bad} of {context.numel()} numbers of the context are not finite"
    )
    flat = context.nan_to_num().flatten(1)
    size = float(flat.square().mean().sqrt())
    share = float((flat - flat.mean(0)).square().mean().sqrt() / size) ** 2 if size else 0.0
    passed = share > SMALLEST_SHARE if not bad else None
    row = DISTINCT.row(share, threshold=f"> {SMALLEST_SHARE:g}", passed=passed, n=n)
    yield CheckedRow(row, f"all {rows} rows have the same context")
    yield CheckedRow(SIZE.row(size, threshold="(decides nothing)", n=n))


def _check_use(
    fresh: tuple[float, float | None], trained: tuple[float, float | None], rows: int
) -> Iterator[CheckedRow]:
    limit = f">= {ROUNDING:g}"
    n = f"{rows} rows, fresh and after {INSPECTED_STEPS} steps"
    names = ("context", "demonstrations")
    for metric, name, before, after in zip((USED, READ), names, fresh, trained, strict=True):
        if before is None or after is None:
            yield CheckedRow(metric.row(NotMeasured(absent=f"no {name}"), threshold=limit, n=n))
            continue
        values = [value for value in (before, after) if math.isfinite(value)]
        if not values:
            yield CheckedRow(metric.row(NotMeasured(absent="the loss is not finite"), threshold=limit, n=n))
            continue
        largest = max(values)
        row = metric.row(largest, threshold=limit, passed=largest >= ROUNDING, n=n)
        verb = f"change{'s' * (name == 'context')} the loss by {largest:.2g} of it only"
        if not largest:
            verb = f"do{'es' * (name == 'context')} not change the loss"
        yield CheckedRow(row, f"the {name} of other rows {verb}")


def _check_predictions(contexts: _Contexts, batches: list[RowBatch], use: float) -> Iterator[CheckedRow]:
    """Whether predictions depend on the demonstrations, where the loss does.

    Numbers change with whatever they depend on. Classes can stay the same by chance, so that they do not decide.

    Args:
        contexts: the model, trained a little.
        batches: batches that are predicted.
        use: the effect of the demonstrations on the loss, relative to it.
    """
    subject, keys = contexts.subject, contexts.subject.demonstrations
    if subject.predict is None or use < ROUNDING:  # another row shows a loss that does not read them
        return
    probe = LossProbe(subject, contexts.seed)
    changed, rows = 0, sum(map(count_rows, batches))
    for batch in batches:
        own, order = probe.predict(batch), torch.arange(count_rows(batch)).roll(1)
        if not torch.equal(own, probe.predict(batch)):
            return  # H6 shows predictions that differ at a second call
        other = probe.predict(exchange_rows(batch, keys, order))
        changed += int((own != other).reshape(len(own), -1).any(1).sum())
        decides = changed > 0 or own.is_floating_point()
    row = PREDICTED.row(
        changed, threshold="at least 1", passed=changed > 0 if decides else None, n=f"{rows} rows"
    )
    words = f"none of the predictions for {rows} rows depends on the demonstrations, and the loss does"
    yield CheckedRow(row, words)


def _check_rows(contexts: _Contexts, batch: RowBatch) -> Iterator[CheckedRow]:
    """Whether the context and the demonstrations of a row are those that its loss depends on."""
    rows, keys = count_rows(batch), contexts.subject.demonstrations
    by_row = contexts.by_row and contexts.subject.independent_rows
    own_losses, own_context = contexts.losses(batch), contexts.read(batch)
    edits = _choose_rows(own_losses if by_row else torch.ones(rows))
    n = f"{len(edits)} of {rows} rows"
    by_context, by_loss, made = 0, 0, 0
    for place in edits:
        orders = [_replace_row(rows, place, donor) for donor in _find_donors(batch, keys, place)]
        if by_row:
            edited = [contexts.losses(batch, _take_rows(order)) for order in orders]
            by_context += changes_alone(place, own_losses, edited)
        if keys:
            exchanged = [exchange_rows(batch, keys, order) for order in orders]
            context = contexts.read(exchanged[0])
            if own_context is not None and context is not None:
                made += _list_rows(own_context, context) == [place]
            by_loss += by_row and changes_alone(place, own_losses, [*map(contexts.losses, exchanged)])
    absent = NotMeasured(
        absent="no sample_losses" if contexts.subject.independent_rows else "rows are not independent"
    )
    total = len(edits)
    for metric, what, count, measured in (
        (OWN, "contexts", by_context, by_row),
        (LOSS_ROWS, "demonstrations", by_loss, by_row and bool(keys)),
    ):
        if measured:
            words = (
                f"{total - count} of {total} times, other {what} for one row did not change its loss alone"
            )
            yield CheckedRow(metric.expect_all(count, total, n), words)
        elif not by_row:
            yield CheckedRow(metric.row(absent, threshold="all", n=n))
    if keys:
        words = f"{total - made} of {total} times, other demonstrations for one row did not change its context alone"
        yield CheckedRow(MADE.expect_all(made, total, n), words)


def _choose_rows(losses: Tensor) -> list[int]:
    """The first rows, those whose loss is saturated last: it hardly depends on anything."""
    saturated = (losses.abs() < SMALLEST_LOSS * losses.abs().mean()).tolist()
    return sorted(range(len(saturated)), key=saturated.__getitem__)[:EDITED_ROWS]


def _replace_row(rows: int, place: int, donor: int) -> Tensor:
    index = torch.arange(rows)
    index[place] = donor
    return index


def _find_donors(batch: RowBatch, keys: tuple[str, ...], place: int) -> list[int]:
    """Other rows, with other demonstrations where there are some."""
    rows = count_rows(batch)
    others = [(place + by) % rows for by in range(1, rows)]
    differing = [
        row
        for row in others
        if any(
            isinstance(batch[key], Tensor) and not torch.equal(batch[key][row], batch[key][place])
            for key in keys
        )
    ]
    return (differing or others)[:DONORS]


def _list_rows(before: Tensor, after: Tensor) -> list[int]:
    size = float(before[before.isfinite()].square().mean().nan_to_num().sqrt()) + 1e-30
    same = torch.isclose(after, before, rtol=0, atol=ROUNDING * size, equal_nan=True).flatten(1).all(1)
    return [int(row) for row in (~same).nonzero().flatten()]


@torch.no_grad()
def _check_received(contexts: _Contexts, batch: RowBatch) -> Iterator[CheckedRow]:
    """Whether the consumer's inputs depend on the context of each row."""
    subject, rows = contexts.subject, count_rows(batch)
    if not subject.context_consumer:
        return

    def receive(edit: Callable[[Tensor], Tensor]) -> list[Tensor]:
        with untouched(subject.model), edited_context(subject.model, contexts.name, rows, edit):
            stop_mixing(subject.model)
            with captured_inputs(subject.model, subject.context_consumer, rows) as found:
                seed_everything(contexts.seed, 4)
                compute_loss(subject, batch)
        return found

    own = receive(lambda context: context)
    if not own:
        absent = f"{subject.context_consumer} receives no tensor with the rows as first dimension"
        yield CheckedRow(RECEIVED.row(NotMeasured(absent=absent), threshold="all", n=""))
        return
    edits = range(min(rows, EDITED_ROWS))
    received = 0
    for place in edits:
        index = torch.arange(rows)
        index[place] = (place + 1) % rows
        other = receive(_take_rows(index))
        received += any(not torch.equal(a[place], b[place]) for a, b in zip(own, other, strict=False))
    words = f"{subject.context_consumer} does not receive the context of {len(edits) - received} of {len(edits)} rows"
    yield CheckedRow(RECEIVED.expect_all(received, len(edits), f"{len(edits)} of {rows} rows"), words)


def _check_old(contexts: _Contexts, batch: RowBatch, other: RowBatch) -> Iterator[CheckedRow]:
    """Whether the context of a batch depends on the batch before it."""
    own, after = contexts.read(other), contexts.read(other, before=(batch,))
    if own is None or after is None or own.shape != after.shape or not bool(own.isfinite().all()):
        return  # another row shows a context that is not finite
    size = float(own.square().mean().sqrt()) + 1e-30
    change = float((own - after).abs().max()) / size
    row = OLD.row(change, control=0.0, threshold=f"<= {ROUNDING:g}", passed=change <= ROUNDING, n="2 batches")
    yield CheckedRow(row, f"the context of a batch changes by {change:.2g} of its size after another batch")
