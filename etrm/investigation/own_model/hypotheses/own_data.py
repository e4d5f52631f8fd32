"""H5 of an own model: the training data is wrong, or the loss uses it wrongly. Metamorphic tests of loader and step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diagnostics.testing.trials import untouched
from etrm.device import to_host
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.hypotheses.hypothesis import Statement
from etrm.investigation.own_model import injected_faults as faults
from etrm.investigation.own_model.batch_rows import (
    are_equal,
    count_rows,
    exchange_rows,
    hash_rows,
    list_ids,
    list_readable,
    list_tensor_keys,
    make_wrong,
    read_bytes,
)
from etrm.investigation.own_model.hypotheses.answering_weights import scale_weights
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import (
    CheckedRow,
    InspectedHypothesis,
    InspectedModel,
    OwnModelReason,
)
from etrm.investigation.own_model.hypotheses.row_independence import (
    DRAWS,
    EDITED_ROWS,
    MIXED,
    check_demonstrations_read,
    check_halves,
    check_order,
    check_other_rows,
    check_pairs,
    check_predicted_keys,
)
from etrm.investigation.own_model.loss_probe import NO_DRAW, LossProbe, are_close, changes_alone
from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.own_model.model_under_test import ModelUnderTest, RowBatch
from etrm.investigation.own_model.training_trial import INSPECTED_STEPS, TrainingTrial
from etrm.investigation.records import NotMeasured

BATCHES = 8
"""Batches that are read, enough for ids to return where the data set is small."""
SMALLEST_ANSWER = 4
"""Elements of a label that is not among demonstrations by chance; one number is enough if it is no integer."""
OTHER_WEIGHTS = 3
"""Draws of other weights with which the labels of a row are read, if they change no loss with the own ones."""
SHOWN_MORE = 0.5
"""Largest difference between training and held-out rows in the share of labels that demonstrations show."""

LABEL_ROWS = Metric(
    "own.label-rows", "rows whose labels change their own loss, and no other", Direction.EQUAL
)
STEP_ROWS = Metric(
    "own.step-rows", "rows whose labels move the step's loss as they move the row's", Direction.EQUAL
)
UNREAD_ROWS = Metric("own.unread-rows", "rows whose labels do not change the step's loss", Direction.LOWER)
OLD_LABELS = Metric("own.old-labels", "loss after a step on other labels", Direction.EQUAL)
ID_LOSS = Metric("own.loss-by-id", "loss with the ids exchanged", Direction.EQUAL)
ID_CONTENT = Metric("own.id-content", "ids with several contents", Direction.LOWER)
ORIGIN = Metric("own.sample-origin", "rows whose {item} is not that of their sample", Direction.LOWER)
OVERLAP = Metric("own.held-out-rows", "held-out rows that are trained on", Direction.LOWER)
CLASSES = Metric("own.distinct-labels", "distinct labels", Direction.HIGHER)
COPIES = Metric("own.labels-in-input", "whether the labels are not the input {item}", Direction.EQUAL)
DEMONSTRATIONS = Metric("own.distinct-demonstrations", "distinct demonstrations", Direction.HIGHER)
SHOWN = Metric(
    "own.answers-shown",
    "share of the labels that are among the row's own demonstrations, {item}",
    Direction.EQUAL,
)
NOT_FINITE = Metric("own.inputs-not-finite", "numbers of the batches that are not finite", Direction.LOWER)


class OwnData(InspectedHypothesis):
    """H5 of an own model."""

    next_step = (
        "Fix the loader, or how the step uses it, first: page H5 names the rows. Then run this command again."
    )
    statement = Statement(
        id="H5",
        title="Data",
        statement="The training data is wrong, or the loss uses it wrongly.",
        refuted_by=(
            "The rows of a batch can be reordered without changing the loss, which is a mean or sum over rows; the "
            "labels of a row change only its own loss; ids do not change the loss; the loss reads every key of the "
            "demonstrations, and every input that predictions depend on; rows with the same id have the content of the "
            "same sample; training contains no held-out row."
        ),
        mechanism=(
            "With labels of another row or of an earlier batch, ids that reveal the answer, or rows that depend on "
            "each other, the loss does not measure whether the model learns the task."
        ),
        kind="mechanistic",
        would_change="One row that fails a test, or a test that the adapter does not allow yet.",
    )

    def find_missing(self, subject: ModelUnderTest) -> str:
        """What the tests need at least."""
        if subject.labels or subject.held_out or subject.ids:
            return ""
        return "the adapter gives none of labels, ids and held_out"

    def list_faults(self, subject: ModelUnderTest) -> tuple[faults.InjectedFault, ...]:
        """Faults for the tests that the adapter allows."""
        probe, batch = LossProbe(subject), subject.batch(0)
        finite = math.isfinite(probe.step_loss(batch))  # if not, only the loader can be tested
        ordered = (
            not probe.is_random(batch) and count_rows(batch) > 2
        )  # two rows have no other order of all rows
        several = count_rows(batch) > 1
        apart = ordered or (several and subject.sample_losses is not None)
        moved = _differ(batch, subject.labels) and names_labels(subject, batch)
        each = (
            (finite and bool(subject.labels) and apart, faults.SHIFTED_LABELS),
            (moved, faults.LOADER_LABELS),
            (_can_leak(subject), faults.LEAKED_ROWS),
            (finite and _differ(batch, subject.ids) and not subject.reads_ids, faults.LOSS_BY_ID),
            (
                finite and several and subject.sample_losses is not None and subject.independent_rows,
                faults.MIXED_ROWS,
            ),
            (finite and bool(list_readable(subject, batch)[1:]), faults.UNREAD_DEMONSTRATIONS),
        )
        return tuple(fault for allowed, fault in each if allowed)

    def inspect(self, factory: ModelFactory, seed: int) -> InspectedModel:
        """Read batches and edit their rows."""
        subject = factory.build(seed)
        batch = subject.batch(0)
        probe = _use_informative_model(factory, LossProbe(subject, seed), batch)
        batches = [subject.batch(index) for index in range(BATCHES)]
        found = InspectedModel(
            (
                *_check_content(probe, batches),
                *_check_origin(subject, batches),
                *check_order(probe, batch),
                *_check_labels_read(probe, batch),
                *_check_labels(probe, batch),
                *_check_old_labels(probe, batch, batches[1]),
                *_check_ids(probe, batch),
                *check_demonstrations_read(factory, probe, batch),
                *check_predicted_keys(probe, batch),
                *check_other_rows(probe, batch),
                *check_halves(probe, batch),
                *check_pairs(probe, batch),
            )
        )
        mixed = {check.row.code for check in found.failed} <= MIXED
        return replace(found, explained_by="H3" if found.failed and mixed else None)


def _use_informative_model(factory: ModelFactory, probe: LossProbe, batch: RowBatch) -> LossProbe:
    """The probe, with a model trained a few steps where the loss of a fresh one is the same for all labels.

    So it is behind a last layer that starts at zero.
    """
    labels = probe.subject.labels
    if not labels:
        return probe
    wrong = {**batch, labels: make_wrong(batch[labels])}
    own = probe.step_loss(batch)
    if not math.isfinite(own) or not are_close(own, probe.step_loss(wrong), NO_DRAW):
        return probe
    trial = TrainingTrial(factory, probe.seed)
    for number in range(INSPECTED_STEPS):
        trial.step(number, trial.batch(number))
    return replace(probe, subject=trial.subject)


def _differ(batch: RowBatch, key: str) -> bool:
    """Whether the values of a key differ between rows, so that those of other rows can be found."""
    values = list_ids(batch, key)
    return any(value != values[0] for value in values)


def _content_keys(subject: ModelUnderTest, batch: RowBatch) -> list[str]:
    return [key for key in list_tensor_keys(batch) if key != subject.ids]


def _check_content(probe: LossProbe, batches: list[RowBatch]) -> Iterator[CheckedRow]:
    """What can be read from the batches, and for labels that are not finite from their loss."""
    subject, rows = probe.subject, sum(map(count_rows, batches))
    n, keys = f"{rows} rows of {len(batches)} batches", _content_keys(subject, batches[0])
    bad = sum(_count_not_finite(probe, b, keys) for b in batches)
    yield CheckedRow(NOT_FINITE.expect_none(bad, n), f"{bad} numbers of the batches are not finite")
    if subject.labels:
        distinct = len({hash for b in batches for hash in hash_rows(b, [subject.labels])})
        row = CLASSES.row(distinct, threshold=">= 2", passed=distinct > 1, n=n)
        yield CheckedRow(row, f"all {rows} rows have the same labels")
        yield from _check_copies(subject, batches, keys, n)
    if subject.demonstrations:
        hashes = [hash for b in batches for hash in hash_rows(b, list(subject.demonstrations))]
        row = DEMONSTRATIONS.row(len(set(hashes)), threshold=">= 2", passed=len(set(hashes)) > 1, n=n)
        yield CheckedRow(row, f"all {rows} rows have the same demonstrations")
    if subject.ids:
        contents: dict[Any, set[str]] = {}
        for b in batches:
            for id, content in zip(list_ids(b, subject.ids), hash_rows(b, keys), strict=True):
                contents.setdefault(id, set()).add(content)
        several = sum(len(found) > 1 for found in contents.values())
        row = ID_CONTENT.expect_none(several, f"{len(contents)} ids, {n}")
        yield CheckedRow(row, f"{several} of {len(contents)} ids have rows of different content")
    if subject.held_out is not None:
        yield _check_held_out(subject, batches, keys, n)
        yield from _check_shown(subject, batches)


def _count_not_finite(probe: LossProbe, batch: RowBatch, keys: list[str]) -> int:
    """The numbers that are not finite, without labels that are masked ones: with them the loss is finite."""
    bad = {key: int((~batch[key].isfinite()).sum()) for key in keys if batch[key].is_floating_point()}
    if bad.get(probe.subject.labels) and math.isfinite(probe.step_loss(batch)):
        del bad[probe.subject.labels]
    return sum(bad.values())


def _check_copies(
    subject: ModelUnderTest, batches: list[RowBatch], keys: list[str], n: str
) -> Iterator[CheckedRow]:
    """Say so if the labels are an input: right in an autoencoder, and a target shifted by one place elsewhere."""
    for key in keys:
        if key != subject.labels and all(_are_copies(b[subject.labels], b[key]) for b in batches):
            absent = f"the labels are the input {key!r}, which is right only if the model should reproduce it"
            row = COPIES.row(NotMeasured(absent=absent), threshold="", n=n, item=key)
            yield CheckedRow(row, left_out=OwnModelReason.LABELS_ARE_INPUTS)


def _are_copies(labels: Tensor, given: Tensor) -> bool:
    """Whether a tensor has the value of the labels at every place; integers below 0 are padding."""
    if labels.shape != given.shape or labels.dtype != given.dtype:
        return False
    same = labels == given
    return bool((same if labels.is_floating_point() else same | (labels < 0)).all())


def _check_held_out(subject: ModelUnderTest, batches: list[RowBatch], keys: list[str], n: str) -> CheckedRow:
    """Whether held-out rows are trained on, by id and by content.

    The content counts if no two training rows share theirs: in a small space of contents two rows agree by chance.
    """
    assert subject.held_out is not None
    held = [subject.held_out(index) for index in range(2)]
    rows = sum(map(count_rows, held))
    if not _can_compare(subject, batches):
        absent = NotMeasured(
            absent="training rows repeat and have no ids, so that held-out rows agree by chance"
        )
        row = OVERLAP.row(absent, threshold="0", n=f"{rows} held-out rows, {n}")
        return CheckedRow(row, left_out=OwnModelReason.ROWS_REPEAT)
    trained = {
        hash: id
        for b in batches
        for hash, id in zip(hash_rows(b, keys), list_ids(b, subject.ids), strict=True)
    }
    ids = {id for b in batches for id in list_ids(b, subject.ids)} if subject.ids else set()
    distinct = len(trained) == (len(ids) or sum(map(count_rows, batches)))
    found = sum(
        id in ids or (distinct and content in trained)
        for b in held
        for content, id in zip(hash_rows(b, keys), list_ids(b, subject.ids), strict=True)
    )
    return CheckedRow(
        OVERLAP.expect_none(found, f"{rows} held-out rows, {n}"),
        f"{found} of {rows} held-out rows are trained on",
    )


def _check_shown(subject: ModelUnderTest, batches: list[RowBatch]) -> Iterator[CheckedRow]:
    """Whether demonstrations show the labels in training and not in held-out rows: then the model learns to copy."""
    assert subject.held_out is not None
    if not subject.labels:
        return
    held = [subject.held_out(index) for index in range(2)]
    for key in subject.demonstrations:
        shares = [_share_shown(rows, key, subject.labels) for rows in (batches[:2], held)]
        if None in shares:
            continue
        training, apart = (share or 0.0 for share in shares)
        row = SHOWN.row(
            training,
            control=apart,
            threshold=f"within {SHOWN_MORE:g}",
            passed=abs(training - apart) <= SHOWN_MORE,
            n="2 batches of each",
            item=key,
        )
        what = f"{training:.0%} of the training labels are among the row's own demonstrations ({key!r})"
        yield CheckedRow(row, f"{what}, and {apart:.0%} of the held-out ones")


def _share_shown(batches: list[RowBatch], key: str, labels: str) -> float | None:
    """The share of the labels that are an entry of the demonstrations of their row; None where that is no evidence.

    Demonstrations have the shape (R, K, *S), labels (R, *S) or (R, T, *S).
    """
    shown: list[bool] = []
    for b in batches:
        given, answers = b[key], to_host(b[labels])
        if not isinstance(given, Tensor) or given.dim() < 2 or given.dtype != answers.dtype:
            return None
        if answers.shape[1:] == given.shape[2:]:
            answers = answers[:, None]
        whole = not answers.is_floating_point() or bool((answers == answers.round()).all())
        if answers.shape[2:] != given.shape[2:] or (whole and answers.shape[2:].numel() < SMALLEST_ANSWER):
            return None
        for entries, own in zip(to_host(given), answers, strict=True):
            known = {read_bytes(entry) for entry in entries}
            shown += (read_bytes(answer) in known for answer in own)
    return sum(shown) / len(shown) if shown else None


def _can_compare(subject: ModelUnderTest, batches: list[RowBatch]) -> bool:
    """Whether a held-out row can be told apart from every training row: by its id, or by its content."""
    hashes = [hash for batch in batches for hash in hash_rows(batch, _content_keys(subject, batch))]
    return bool(subject.ids) or len(set(hashes)) == len(hashes)


def _can_leak(subject: ModelUnderTest) -> bool:
    """Whether held-out rows that are trained on can be found."""
    if subject.held_out is None:
        return False
    makers = (subject.batch, subject.held_out)
    return all(_can_compare(subject, [make(index) for index in range(BATCHES)]) for make in makers)


def names_labels(subject: ModelUnderTest, batch: RowBatch) -> bool:
    """Whether the sample of an id holds its labels."""
    if not subject.ids or subject.sample is None or not subject.labels:
        return False
    return subject.labels in subject.sample(list_ids(batch, subject.ids)[0])


def names_pairs(subject: ModelUnderTest, batch: RowBatch) -> bool:
    """Whether the sample of an id holds its labels and its demonstrations, so that their pairs are checked."""
    if not names_labels(subject, batch) or subject.sample is None:
        return False
    return set(subject.demonstrations) <= subject.sample(list_ids(batch, subject.ids)[0]).keys()


def _check_origin(subject: ModelUnderTest, batches: list[RowBatch]) -> Iterator[CheckedRow]:
    """Whether rows are the samples that their ids name."""
    if not subject.ids or subject.sample is None:
        return
    wrong: dict[str, int] = {}
    rows = 0
    for b in batches[:2]:
        for place, id in enumerate(list_ids(b, subject.ids)):
            own = subject.sample(id)
            rows += 1
            for key, value in own.items():
                if isinstance(value, Tensor) and key in b:
                    loaded = to_host(b[key][place])
                    own_value = to_host(value).to(loaded.dtype)  # a loader may convert numbers
                    wrong[key] = wrong.get(key, 0) + (not torch.equal(own_value, loaded))
    for key, count in wrong.items():
        row = ORIGIN.expect_none(count, f"{rows} rows", item=key)
        yield CheckedRow(row, f"in {count} of {rows} rows, {key!r} is that of another sample")


def _edit_labels(subject: ModelUnderTest, batch: RowBatch) -> Iterator[tuple[int, RowBatch]]:
    """Each of the first rows that has labels, and the batch with wrong ones in it; the others hold padding alone."""
    labels = batch[subject.labels]
    wrong = make_wrong(labels)
    for place in range(min(count_rows(batch), EDITED_ROWS)):
        edited = labels.clone()
        edited[place] = wrong[place]
        if not are_equal({"": edited}, {"": labels}):
            yield place, {**batch, subject.labels: edited}


def _check_labels_read(probe: LossProbe, batch: RowBatch) -> Iterator[CheckedRow]:
    """Whether the labels of each row reach the step's loss, at least with some of the random numbers."""
    if not probe.subject.labels:
        return
    probes = [replace(probe, seed=probe.seed + 1000 * draw) for draw in range(DRAWS)]
    rows, unread = 0, 0
    for _, changed in _edit_labels(probe.subject, batch):
        rows += 1
        seen = any(_responds(one, batch, changed) for one in probes)
        unread += not (seen or _responds_elsewhere(probe, batch, changed))
    words = f"the labels of {unread} of {rows} rows do not change the step's loss"
    yield CheckedRow(UNREAD_ROWS.expect_none(unread, f"{rows} rows"), words)


def _responds(probe: LossProbe, one: RowBatch, other: RowBatch) -> bool:
    """Whether two batches have different losses, by however little."""
    return probe.step_loss(one) != probe.step_loss(other)


def _responds_elsewhere(probe: LossProbe, one: RowBatch, other: RowBatch) -> bool:
    """The same with other weights: two answers can be equally likely by chance, above all in a low precision."""
    model = probe.subject.model
    for draw in range(OTHER_WEIGHTS):
        with untouched(model):
            scale_weights(model, draw)
            if _responds(probe, one, other):
                return True
    return False


def _check_labels(probe: LossProbe, batch: RowBatch) -> Iterator[CheckedRow]:
    """Whether the labels of a row move its own loss, and the step's loss in the same way."""
    subject = probe.subject
    if not subject.labels:
        return
    edits = list(_edit_labels(subject, batch))
    if subject.sample_losses is None or not edits:
        absent = "no sample_losses" if edits else "the labels of the first rows are padding"
        yield CheckedRow(LABEL_ROWS.row(NotMeasured(absent=absent), threshold="", n=""))
        return
    losses = probe.sample_losses(batch)
    draws = DRAWS if probe.is_random(batch) else 1
    probes = [replace(probe, seed=probe.seed + 1000 * draw) for draw in range(draws)]
    own, ratios, finite, rows = 0, [], True, len(edits)
    for place, changed in edits:
        own += changes_alone(place, losses, [probe.sample_losses(changed)]) or not subject.independent_rows
        moved = sum(float((one.sample_losses(changed) - one.sample_losses(batch))[place]) for one in probes)
        step = sum(
            one.step_loss(changed, unmixed=True) - one.step_loss(batch, unmixed=True) for one in probes
        )
        finite &= math.isfinite(step) and math.isfinite(moved)
        ratios.append(step / moved if moved else float("nan"))
    words = f"of {rows} rows, {rows - own} have labels that change the loss of another row, or of none"
    yield CheckedRow(LABEL_ROWS.expect_all(own, rows, f"{rows} rows"), words)
    if probe.find_precision(batch) > NO_DRAW:
        rounded = NotMeasured(absent="the step's loss is rounded to a low precision")
        yield CheckedRow(STEP_ROWS.row(rounded, threshold="", n=""))
    elif subject.independent_rows and finite:  # other rows show a loss that is not finite
        middle = sorted(ratios)[rows // 2]
        alike = sum(middle / 5 <= ratio <= 5 * middle for ratio in ratios) if middle > 0 else 0
        words = f"the labels of {rows - alike} of {rows} rows move the step's loss unlike the row's loss"
        row = STEP_ROWS.expect_all(alike, rows, f"{rows} rows", threshold="all, within a factor of 5")
        yield CheckedRow(row, words)


def _check_old_labels(probe: LossProbe, batch: RowBatch, other: RowBatch) -> Iterator[CheckedRow]:
    """Whether the labels of one batch change the loss of the next."""
    labels = probe.subject.labels
    if not labels:
        return
    edited = {**batch, labels: make_wrong(batch[labels])}
    own, after = (probe.step_loss(other, before=(earlier,)) for earlier in (batch, edited))
    row = OLD_LABELS.row(
        after, control=own, threshold="the same", passed=are_close(own, after), n="2 batches"
    )
    yield CheckedRow(
        row, f"the labels of a batch change the loss of the next one from {own:.4g} to {after:.4g}"
    )


def _check_ids(probe: LossProbe, batch: RowBatch) -> Iterator[CheckedRow]:
    """Whether the ids change the loss."""
    subject = probe.subject
    if not subject.ids or subject.reads_ids:
        return
    own = probe.step_loss(batch)
    rows = count_rows(batch)
    after = probe.step_loss(exchange_rows(batch, (subject.ids,), torch.arange(rows).roll(1)))
    row = ID_LOSS.row(
        after, control=own, threshold="the same", passed=are_close(own, after), n=f"{rows} rows"
    )
    yield CheckedRow(row, f"the loss is {own:.4g}, and {after:.4g} with the ids exchanged between rows")
