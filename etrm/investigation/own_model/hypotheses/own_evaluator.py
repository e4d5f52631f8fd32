"""H6 of an own model: the evaluator misreports. Known answers go through it at several sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from diagnostics.testing.trials import untouched
from etrm.errors import ExtensionError
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.hypotheses.hypothesis import Statement
from etrm.investigation.own_model.adapter_functions import make_predictions
from etrm.investigation.own_model.batch_rows import count_rows, make_wrong, select_rows, take
from etrm.investigation.own_model.hypotheses.answering_weights import (
    STALE_COPY,
    check_answering_weights,
    loss_responds,
)
from etrm.investigation.own_model.hypotheses.fitted_predictions import check_fitted_predictions, lacks_fields
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import (
    CheckedRow,
    InspectedHypothesis,
    InspectedModel,
)
from etrm.investigation.own_model.injected_faults import InjectedFault
from etrm.investigation.own_model.loss_probe import LossProbe, are_close
from etrm.investigation.own_model.model_factory import ModelFactory, seed_everything
from etrm.investigation.own_model.model_under_test import ModelUnderTest, RowBatch, read_tensors
from etrm.investigation.records import NotMeasured

SIZES = (4, 61, 64)
"""Numbers of rows that are evaluated, in addition to all that were read. The odd one leaves a batch incomplete."""
BATCHES = 8
"""Batches that are read for the known answers; those of another length than the first are left out."""
TOLERANCE = 1e-4
"""Largest difference of a score that counts as none, relative to the range of the scores."""
SAME = 1e-4
"""The same for predictions, relative to their size: another batch size changes the order of sums."""

KNOWN = Metric("own.known-answer", "score of known answers: {item}", Direction.EQUAL)
ORDER = Metric("own.score-order", "score of the same answers in another order", Direction.EQUAL)
REPEATED = Metric("own.score-repeated", "score at a second call", Direction.EQUAL)
TWICE = Metric("own.score-of-rows-twice", "score of the same rows twice in a call", Direction.EQUAL)
MISMATCHED = Metric("own.score-mismatched", "score of the answers of other rows", Direction.HOLDS)
SECOND = Metric("own.second-prediction", "predictions that differ at a second call", Direction.LOWER)
LABELS_READ = Metric("own.prediction-by-label", "predictions that change with the labels", Direction.LOWER)
ALONE = Metric("own.prediction-alone", "predictions that change with the size of the batch", Direction.LOWER)
MODE = Metric(
    "own.mode-after-prediction",
    "modules that predict leaves in another mode, if that changes the loss of the next step",
    Direction.LOWER,
)
WEIGHTS = Metric("own.weights-after-prediction", "tensors changed by predict", Direction.LOWER)


@dataclass(frozen=True)
class KnownShare:
    """Predictions of which a known number of rows is right.

    Attributes:
        name: stable name.
        words: the name in words.
        right: number of rows that are right.
        rows: number of rows.
    """

    name: str
    words: str
    right: int
    rows: int


@dataclass(frozen=True)
class MixedAnswers:
    """Right and wrong answers to the same rows, and the evaluator that scores them."""

    subject: ModelUnderTest
    right: Tensor
    wrong: Tensor

    def mix(self, right: int) -> Tensor:
        """Answers of which the first rows are right and the others wrong."""
        return torch.cat([self.right[:right], self.wrong[right:]])

    def score(self, right: int) -> float:
        """The score of answers of which the first rows are right."""
        with untouched(self.subject.model):
            return _evaluate(self.subject, make_predictions(self.subject, self.mix(right)), self.right)


class OwnEvaluator(InspectedHypothesis):
    """H6 of an own model."""

    next_step = "Fix the evaluator first: page H6 names what it misreports. Earlier scores mean nothing."
    statement = Statement(
        id="H6",
        title="Evaluator",
        statement="The evaluator reports wrong scores.",
        refuted_by=(
            "Answers that are all right, half right, right once and all wrong get the correct scores, at several "
            "sizes, in any order, twice in a call and at a second call; predictions repeat, do not read the labels, "
            "leave the model unchanged, depend on the weights that are trained, and are right on a "
            "batch that training has fitted."
        ),
        mechanism=(
            "The score does not measure what the model learned if the denominator is wrong, answers belong to other "
            "rows, a state of an earlier call is kept, dropout is on, or the prediction reads labels or comes from "
            "another copy of the model."
        ),
        kind="mechanistic",
        would_change="One known answer with another score, or a test that the adapter does not allow yet.",
    )

    def find_missing(self, subject: ModelUnderTest) -> str:
        """What the tests need at least."""
        if subject.predict or (subject.evaluate and subject.labels):
            return ""
        return "the adapter gives neither predict nor evaluate with labels"

    def list_faults(self, subject: ModelUnderTest) -> tuple[InjectedFault, ...]:
        """Faults for the tests that the adapter allows."""
        found = []
        if subject.evaluate and subject.labels:
            answers = subject.batch(0)[subject.labels]
            differ = not torch.equal(answers, answers.roll(1, 0))
            found += (
                [SCALED_SCORE] if math.isfinite(subject.best_score) else []
            )  # infinity has no larger score
            found += [SHIFTED_ANSWERS] if differ else []
        if subject.predict and subject.labels:
            found.append(COPIED_LABELS)
        if subject.predict and loss_responds(subject):
            found.append(STALE_COPY)
        return tuple(found)

    def inspect(self, factory: ModelFactory, seed: int) -> InspectedModel:
        """Score known answers, and predict twice."""
        subject = factory.build(seed)
        checks: list[CheckedRow] = []
        if subject.evaluate and subject.labels:
            checks += _check_scores(subject)
        if subject.predict:
            checks += _check_predictions(subject, seed)
            if not any(
                check.row.code in (SECOND.code, LABELS_READ.code) and check.failed for check in checks
            ):
                checks.append(check_answering_weights(factory, seed))
            if not lacks_fields(subject) and not any(check.failed for check in checks):
                checks.append(check_fitted_predictions(factory, seed))
        found = InspectedModel(tuple(checks))
        alone = {check.row.code for check in found.failed} == {ALONE.code}
        return replace(found, explained_by="H3" if alone else None)


def _check_scores(subject: ModelUnderTest) -> Iterator[CheckedRow]:
    first, *others = (subject.batch(index)[subject.labels] for index in range(BATCHES))
    answers = torch.cat([first, *(other for other in others if other.shape[1:] == first.shape[1:])])
    wrong = make_wrong(answers)
    sizes = [size for size in SIZES if size < len(answers)] + [len(answers)]
    for size in sizes:
        chosen = MixedAnswers(subject, answers[:size], wrong[:size])
        none = chosen.score(0)
        yield _judge_end(subject, "right", size, chosen.score(size), subject.best_score)
        yield _judge_end(subject, "none", size, none, subject.worst_score)
        for name, right in (("half", size // 2), ("one", 1)):
            yield _judge_share(KnownShare(name, name, right, size), chosen, none)
    yield from _check_calls(subject, answers, wrong)


def _judge_end(
    subject: ModelUnderTest, name: str, size: int, score: float, expected: float | None
) -> CheckedRow:
    item, words = f"{name}-{size}", f"{name}, {size} rows"
    if expected is None:
        passed = False if math.isnan(score) or score == subject.best_score else None
        row = KNOWN.row(
            score,
            threshold="not the best score",
            passed=passed,
            n=f"{size} rows",
            item=item,
            item_words=words,
        )
        return CheckedRow(row, f"wrong answers for {size} rows get the score {score:.4g}")
    passed = _is_near(score, expected, expected)
    row = KNOWN.row(
        score,
        control=expected,
        threshold="equal",
        passed=passed,
        n=f"{size} rows",
        item=item,
        item_words=words,
    )
    answers = "right answers" if name == "right" else "wrong answers"
    return CheckedRow(
        row, f"{answers} for {size} rows get the score {score:.4g} and should get {expected:.4g}"
    )


def _judge_share(known: KnownShare, answers: MixedAnswers, none: float) -> CheckedRow:
    """Whether the score lies where the share of right rows, or of right elements, puts it."""
    subject, score = answers.subject, answers.score(known.right)
    item, item_words = f"{known.name}-{known.rows}", f"{known.words} right, {known.rows} rows"
    right = f"{known.right} of {known.rows} rows right get the score {score:.4g}"
    n = f"{known.rows} rows"
    if math.isnan(score):
        row = KNOWN.row(score, threshold="a number", passed=False, n=n, item=item, item_words=item_words)
        return CheckedRow(row, f"{right}, which is not a number")
    if undecided := _find_undecided(subject, none):
        threshold = f"(decides nothing: {undecided})"
        return CheckedRow(KNOWN.row(score, threshold=threshold, n=n, item=item, item_words=item_words))
    wrong = sorted(
        {1 - known.right / known.rows, 1 - _share_of_elements(answers.right, known.right)}, reverse=True
    )
    if subject.worst_score is None:
        wrong += [share**0.5 for share in wrong]  # the root of a mean error is allowed too
    expected = [subject.best_score + (none - subject.best_score) * share for share in wrong]
    row = KNOWN.row(
        score,
        control=min(expected, key=lambda value: abs(value - score)),
        threshold="equal",
        passed=any(_is_near(score, value, none, subject.best_score) for value in expected),
        n=n,
        item=item,
        item_words=item_words,
    )
    return CheckedRow(row, f"{right} and should get {expected[0]:.4g}")


def _find_undecided(subject: ModelUnderTest, none: float) -> str:
    """The reason why the scores of no and of all right rows do not fix those between them; "" if they do."""
    if not subject.linear_score:
        return "linear_score is False"
    ends = {"right": subject.best_score, "wrong": none}
    return next((f"{name} answers get {end:g}" for name, end in ends.items() if not math.isfinite(end)), "")


def _check_calls(subject: ModelUnderTest, answers: Tensor, wrong: Tensor) -> Iterator[CheckedRow]:
    size = len(answers)
    known = make_predictions(subject, MixedAnswers(subject, answers, wrong).mix(size // 2))
    score = _evaluate(subject, known, answers)
    n = f"{size} rows"
    again = _evaluate(subject, known, answers)
    row = REPEATED.row(again, control=score, threshold="equal", passed=_is_near(again, score, score), n=n)
    yield CheckedRow(row, f"a second call gives the score {again:.4g} after {score:.4g}")
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    moved = _evaluate(subject, take(known, order), take(answers, order))
    row = ORDER.row(moved, control=score, threshold="equal", passed=_is_near(moved, score, score), n=n)
    yield CheckedRow(
        row, f"the same answers in another order get the score {moved:.4g} instead of {score:.4g}"
    )
    if subject.linear_score:
        twice = _evaluate(subject, torch.cat([known, known]), torch.cat([answers, answers]))
        row = TWICE.row(twice, control=score, threshold="equal", passed=_is_near(twice, score, score), n=n)
        words = f"the same rows twice in a call get the score {twice:.4g} instead of {score:.4g}, as where a sum is"
        yield CheckedRow(
            row,
            f"{words} divided by a fixed number of rows (if the score is a sum on purpose: linear_score=False)",
        )
    other = _evaluate(subject, make_predictions(subject, answers).roll(1, 0), answers)
    differ = not torch.equal(answers.roll(1, 0), answers)
    passed = not _is_near(other, subject.best_score, subject.best_score) if differ else None
    row = MISMATCHED.row(other, threshold="not the best score", passed=passed, n=n)
    yield CheckedRow(row, f"the answers of other rows get the best score, {other:.4g}")


def _check_predictions(subject: ModelUnderTest, seed: int) -> Iterator[CheckedRow]:
    batch, model = subject.batch(0), subject.model
    rows = count_rows(batch)
    n = f"{rows} rows"
    modes = {module: module.training for module in model.modules()}
    weights = {name: tensor.detach().clone() for name, tensor in read_tensors(model).items()}
    first = _predict(subject, batch, seed)
    after = read_tensors(model)  # lazy modules have more than before
    changed = sum(not torch.equal(after[name], tensor) for name, tensor in weights.items())
    yield _check_mode(subject, modes, batch, seed)
    yield CheckedRow(WEIGHTS.expect_none(changed, n), f"predict changes {changed} tensors of the model")
    second = _count_differing(first, _predict(subject, batch, seed + 1))
    words = f"{second} of {rows} predictions differ at a second call"
    if second and _repeats_in_evaluation_mode(subject, batch, seed):
        words += ", but not after model.eval(), which predict does not call"
    yield CheckedRow(SECOND.expect_none(second, n), words)
    if second:
        return  # what follows compares predictions
    part = min(rows, 3)
    alone = _count_differing(first[:part], _predict(subject, select_rows(batch, range(part)), seed))
    words = f"{alone} of {part} predictions differ when {part} rows are predicted alone"
    yield CheckedRow(ALONE.expect_none(alone, f"{part} of {n}"), words)
    if subject.labels:
        edited = {**batch, subject.labels: make_wrong(batch[subject.labels])}
        read = _count_differing(first, _predict(subject, edited, seed))
        yield CheckedRow(
            LABELS_READ.expect_none(read, n), f"{read} of {rows} predictions change with the labels"
        )
    else:
        yield CheckedRow(LABELS_READ.row(NotMeasured(absent="no labels"), threshold="", n=""))


def _check_mode(
    subject: ModelUnderTest, before: Mapping[nn.Module, bool], batch: RowBatch, seed: int
) -> CheckedRow:
    """Whether the modes that predict left change the next step; they do not if no layer depends on its mode, or if
    the step sets it.
    """
    left = sum(module.training != mode for module, mode in before.items())
    probe = LossProbe(subject, seed)
    try:
        found = probe.step_loss(batch)
    except ExtensionError:  # a fault of the step, which other hypotheses name
        return CheckedRow(MODE.row(NotMeasured(absent="the step raises an exception"), threshold="", n=""))
    with untouched(subject.model):
        for module, mode in before.items():
            module.training = mode
        expected = probe.step_loss(batch)
    felt = 0 if are_close(found, expected) else left
    return CheckedRow(
        MODE.expect_none(felt, f"{count_rows(batch)} rows"),
        f"predict leaves {left} modules in another mode, in which the loss of the next step is {found:.4g} instead of "
        f"{expected:.4g}; call model.train() at the end of predict or at the start of the step",
    )


def _repeats_in_evaluation_mode(subject: ModelUnderTest, batch: RowBatch, seed: int) -> bool:
    with untouched(subject.model):
        subject.model.eval()
        return not _count_differing(*(_predict(subject, batch, seed + call) for call in range(2)))


def _predict(subject: ModelUnderTest, batch: RowBatch, seed: int) -> Tensor:
    seed_everything(seed, 6)
    assert subject.predict is not None
    return subject.predict(subject.model, batch).detach().clone()


def _count_differing(one: Tensor, other: Tensor) -> int:
    """The rows that differ by more than rounding."""
    if one.shape != other.shape:
        return len(one)
    if not one.is_floating_point():
        return int((one != other).reshape(len(one), -1).any(1).sum())
    scale = float(one[one.isfinite()].abs().mean().nan_to_num()) + 1e-12
    same = torch.isclose(one, other, rtol=0, atol=SAME * scale, equal_nan=True)
    return int((~same).reshape(len(one), -1).any(1).sum())


def _evaluate(subject: ModelUnderTest, predictions: Tensor, answers: Tensor) -> float:
    assert subject.evaluate is not None
    return float(subject.evaluate(predictions, answers))


def _share_of_elements(answers: Tensor, right: int) -> float:
    """The share of the elements that count in the rows that are right; negative integers are padding, or NaN."""
    counted = answers.isfinite() if answers.is_floating_point() else answers >= 0
    return float(counted[:right].sum() / counted.sum().clamp(min=1))


def _is_near(score: float, expected: float, *ends: float) -> bool:
    """Whether two scores differ by rounding at most. Equal ones that are not finite are near."""
    if not (math.isfinite(score) and math.isfinite(expected)):
        return are_close(score, expected)
    scale = max(1e-6, *(abs(end) for end in (expected, *ends) if math.isfinite(end)))
    return abs(score - expected) <= TOLERANCE * scale


def _scale_score(subject: ModelUnderTest) -> ModelUnderTest:
    evaluate = subject.evaluate
    assert evaluate is not None
    return replace(
        subject, evaluate=lambda p, a: float(evaluate(p, a)) * len(a) / (len(a) + 1) + 1 / (len(a) + 1)
    )


def _shift_answers(subject: ModelUnderTest) -> ModelUnderTest:
    evaluate = subject.evaluate
    assert evaluate is not None
    return replace(subject, evaluate=lambda p, a: evaluate(p.roll(1, 0), a))


def _copy_labels(subject: ModelUnderTest) -> ModelUnderTest:
    def predict(model: nn.Module, batch: RowBatch) -> Tensor:
        return make_predictions(subject, batch[subject.labels])

    return replace(subject, predict=predict)


SCALED_SCORE = InjectedFault("one-row-too-many", "the evaluator counts a right row too many", _scale_score)
SHIFTED_ANSWERS = InjectedFault(
    "shifted-answers", "predictions are compared with the answers of other rows", _shift_answers
)
COPIED_LABELS = InjectedFault("copied-labels", "the prediction is the label", _copy_labels)
