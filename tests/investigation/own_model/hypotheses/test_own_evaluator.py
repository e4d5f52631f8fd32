"""H6 of an own model: an evaluator that misreports is found by the row about it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etrm.investigation.own_model.check_adapter import check_adapter
from etrm.investigation.own_model.hypotheses.own_evaluator import OwnEvaluator
from etrm.investigation.own_model.model_factory import ModelFactory
from tests.investigation.own_model.toy_adapter import (
    LABELS,
    Toy,
    batch,
    factory,
    losses,
    read_samples,
    with_model,
)

H6 = OwnEvaluator()


def failed(made: ModelFactory) -> set[tuple[str, str]]:
    return {(check.row.code, check.row.item) for check in H6.inspect(made, 0).failed}


def test_a_sound_evaluator_passes_every_row() -> None:
    assert failed(factory()) == set()


def test_the_scores_are_those_of_counting_by_hand() -> None:
    rows = {check.row.item: check.row for check in H6.inspect(factory(), 0).checks if check.row.item}
    assert {item: row.treatment for item, row in rows.items() if item.endswith("-4")} == {
        "right-4": 1.0,
        "none-4": 0.0,
        "half-4": 0.5,
        "one-4": 0.25,
    }


def accuracy(predictions: Tensor, answers: Tensor) -> float:
    return (predictions == answers).float().mean().item()


def without_last_batch(predictions: Tensor, answers: Tensor) -> float:
    rows = len(answers) // 8 * 8 or len(answers)
    return accuracy(predictions[:rows], answers[:rows])


class Dropping(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def pass_on(self, context: Tensor) -> Tensor:
        return self.drop(context)


class Normed(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def pass_on(self, context: Tensor) -> Tensor:
        return self.norm(context)


def raw(model: nn.Module, rows: dict[str, Any]) -> Tensor:
    return model(rows["demos"], rows["query"])


def left_in_eval(model: nn.Module, rows: dict[str, Any]) -> Tensor:
    return raw(model.eval(), rows).argmax(-1)


def kept() -> Any:
    """An evaluator that never forgets."""
    seen: list[float] = []

    def evaluate(predictions: Tensor, answers: Tensor) -> float:
        seen.extend((predictions == answers).float().tolist())
        return sum(seen) / len(seen)

    return evaluate


@pytest.mark.parametrize(
    ("made", "wrong"),
    [
        (
            factory(evaluate=lambda p, a: (p == a).float().sum().item() / 64),
            {("own.known-answer", "right-4")},
        ),
        (factory(evaluate=lambda p, a: accuracy(p[:4], a[:4])), {("own.known-answer", "one-64")}),
        (factory(evaluate=without_last_batch), {("own.known-answer", "half-61")}),
        (factory(evaluate=lambda p, a: accuracy(p.sort()[0], a.sort()[0])), {("own.score-mismatched", "")}),
        (factory(evaluate=kept()), {("own.known-answer", "right-64")}),
        (factory(predict=lambda model, rows: rows["label"]), {("own.prediction-by-label", "")}),
        (with_model(Dropping), {("own.second-prediction", "")}),
        (with_model(Normed), {("own.weights-after-prediction", "")}),
        (with_model(Dropping, predict=left_in_eval), {("own.mode-after-prediction", "")}),
        (with_model(Normed, predict=left_in_eval), {("own.mode-after-prediction", "")}),
    ],
)
def test_each_fault_fails_its_row(made: ModelFactory, wrong: set[tuple[str, str]]) -> None:
    assert wrong <= failed(made)


class WithVersion(Toy):
    """Its state has an entry that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


class Lazy(Toy):
    """Its decoder has no weights before the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.LazyLinear(4)


@pytest.mark.parametrize("kind", [WithVersion, Lazy])
def test_a_state_may_have_more_than_tensors_with_values(kind: type[Toy]) -> None:
    assert failed(with_model(kind)) == set()


def test_labels_may_have_another_length_in_each_batch() -> None:
    def pad(index: int) -> dict[str, Any]:
        rows = batch(index)
        return {**rows, "label": rows["label"][:, None].expand(-1, 3 + index % 2).contiguous()}

    made = factory(
        batch=pad,
        sample_losses=None,
        step=lambda model, rows: losses(model, {**rows, "label": rows["label"][:, 0]}).mean(),
        predict=lambda model, rows: raw(model, rows).argmax(-1)[:, None].expand_as(rows["label"]),
    )
    found = H6.inspect(made, 0)
    assert found.failed == []
    assert {check.row.item for check in found.checks} >= {"right-4", "right-32"}  # of every other batch


def one_hot(rows: dict[str, Any]) -> dict[str, Any]:
    return {**rows, "label": torch.nn.functional.one_hot(rows["label"], 4).float()}


def by_class(index: int) -> dict[str, Any]:
    """Batches of one class each, the last one first."""
    label = 3 - index % 4
    return read_samples(LABELS.eq(label).nonzero().flatten()[:8])


@pytest.mark.parametrize(
    "form",
    [
        {
            "batch": lambda index: one_hot(batch(index)),
            "predict": lambda model, rows: raw(model, rows).argmax(-1),
            "as_predictions": lambda answers: answers.argmax(-1),
            "evaluate": lambda p, a: accuracy(p, a.argmax(-1)),
        },
        {
            "batch": lambda index: {**batch(index), "label": (batch(index)["label"] > 1).float()},
            "predict": lambda model, rows: (raw(model, rows)[:, 0] > 0).float(),
            "evaluate": lambda p, a: accuracy(p > 0.5, a > 0.5),
        },
        {
            "batch": by_class,
            "predict": raw,
            "as_predictions": lambda answers: torch.nn.functional.one_hot(answers, 4).float(),
            "evaluate": lambda p, a: accuracy(p.argmax(-1), a),
        },
    ],
    ids=["one-hot numbers", "two numbers", "batches of one class"],
)
def test_wrong_answers_are_wrong_for_any_form_of_labels(form: dict[str, Any]) -> None:
    step = lambda model, rows: raw(model, rows).square().mean()  # noqa: E731
    made = factory(**form, step=step, sample_losses=None, sample=None)
    check_adapter(made)
    assert failed(made) == set()


def in_training_mode(model: nn.Module, rows: dict[str, Any]) -> Tensor:
    return losses(model.train(), rows).mean()


@pytest.mark.parametrize(
    "made",
    [factory(predict=left_in_eval), with_model(Dropping, predict=left_in_eval, step=in_training_mode)],
    ids=["no layer depends on the mode", "the step sets the mode"],
)
def test_a_mode_that_does_not_reach_the_next_step_is_no_fault(made: ModelFactory) -> None:
    assert failed(made) == set()


def test_a_prediction_in_training_mode_is_named_as_such() -> None:
    """Dropout that predict leaves on can be turned off; random numbers that it draws itself cannot."""
    noisy = factory(predict=lambda model, rows: raw(model, rows) + torch.rand(8, 1))
    words = {
        name: next(c.words for c in H6.inspect(made, 0).failed if c.row.code == "own.second-prediction")
        for name, made in (("dropout", with_model(Dropping, predict=raw)), ("noise", noisy))
    }
    assert {name: "model.eval()" in found for name, found in words.items()} == {
        "dropout": True,
        "noise": False,
    }


def test_a_mean_error_is_best_at_zero_and_linear() -> None:
    def with_targets(index: int) -> dict[str, Any]:
        rows = batch(index)
        return {**rows, "label": rows["query"][:, 0]}

    def score(predictions: Tensor, answers: Tensor) -> float:
        return (predictions - answers).square().mean().item()

    targets = {"batch": with_targets, "best_score": 0.0, "worst_score": None, "predict": None}
    assert failed(factory(evaluate=score, **targets)) == set()
    assert failed(factory(evaluate=lambda p, a: score(p, a) ** 0.5, **targets)) == set()  # the root of one
    squared = lambda p, a: score(p, a) ** 2  # noqa: E731
    assert ("own.known-answer", "half-4") in failed(factory(evaluate=squared, **targets))
    assert failed(factory(evaluate=squared, linear_score=False, **targets)) == set()
    wrong = factory(evaluate=lambda p, a: (8 * score(p[:8], a[:8]) / len(a)) ** 0.5, **targets)
    assert ("own.known-answer", "one-64") in failed(wrong)


def failures(**changes: Any) -> dict[tuple[str, str], str]:
    """The words of each row that fails, by its code and item."""
    return {
        (check.row.code, check.row.item): check.words for check in H6.inspect(factory(**changes), 0).failed
    }


def test_a_score_that_is_not_a_number_fails_wherever_it_occurs() -> None:
    always = failures(evaluate=lambda p, a: math.nan)
    assert {item for _, item in always} == {
        f"{n}-{s}" for n in ("right", "none", "half", "one") for s in (4, 61, 64)
    }
    assert not any(
        "should get nan" in words for words in always.values()
    )  # the odd sentence that this replaces
    of_wrong = failures(
        evaluate=lambda p, a: math.nan if accuracy(p, a) < 0.4 else accuracy(p, a), worst_score=None
    )
    assert set(of_wrong) == {("own.known-answer", f"{n}-{s}") for n in ("none", "one") for s in (4, 61, 64)}
    mixed = failures(evaluate=lambda p, a: accuracy(p, a) if accuracy(p, a) in (0, 1) else math.nan)
    assert ("own.score-repeated", "") not in mixed  # it is the same at every call


def test_infinite_scores_are_allowed_where_the_adapter_declares_them() -> None:
    def signal_to_noise(predictions: Tensor, answers: Tensor) -> float:
        error = 1 - accuracy(predictions, answers)
        return -math.log10(error) if error else math.inf

    ends = {"best_score": math.inf, "worst_score": 0.0}
    assert failures(evaluate=signal_to_noise, **ends) == {}
    assert H6.list_faults(factory(evaluate=signal_to_noise, **ends).build(0))[0].name == "shifted-answers"


def test_a_score_whose_worst_value_is_infinite_fixes_none_between_the_ends() -> None:
    def surprise(predictions: Tensor, answers: Tensor) -> float:
        right = accuracy(predictions, answers)
        return -math.log(right) if right else math.inf

    for worst in (math.inf, None):
        assert failures(evaluate=surprise, best_score=0.0, worst_score=worst) == {}


def test_predictions_that_are_not_numbers_are_compared_entry_by_entry() -> None:
    calls: list[int] = []

    def unsteady(model: nn.Module, rows: dict[str, Any]) -> Tensor:
        """The first row is never a number; the second differs at the second call."""
        calls.append(1)
        made = raw(model, rows).detach().clone()
        made[0], made[1] = math.nan, float(len(calls))
        return made

    [check] = H6.inspect(factory(predict=unsteady, evaluate=None), 0).failed
    assert (check.row.code, check.row.treatment) == ("own.second-prediction", 1)


def test_logits_are_evaluated_where_the_adapter_makes_them_of_answers() -> None:
    made = factory(
        predict=raw,
        evaluate=lambda p, a: accuracy(p.argmax(-1), a),
        as_predictions=lambda answers: torch.nn.functional.one_hot(answers, 4).float(),
    )
    assert failed(made) == set()


def test_answers_that_are_all_alike_have_no_control_that_shifts_them() -> None:
    alike = factory(batch=lambda index: {**batch(index), "label": torch.zeros(8).long()}).build(0)
    assert "shifted-answers" not in [fault.name for fault in H6.list_faults(alike)]


def test_every_control_is_found() -> None:
    faults = H6.list_faults(factory().build(0))
    assert [fault.name for fault in faults] == [
        "one-row-too-many",
        "shifted-answers",
        "copied-labels",
        "stale-copy",
    ]
    assert all(failed(fault.apply(factory())) for fault in faults)


def test_an_error_that_is_divided_by_a_fixed_number_of_rows_is_found() -> None:
    """All errors have the same factor, so that only another number of rows shows it."""
    total: Callable[[Tensor, Tensor], Tensor] = lambda p, a: (p != a).float().sum()  # noqa: E731
    changes = {"best_score": 0.0, "worst_score": None, "predict": None}
    assert failed(factory(evaluate=lambda p, a: total(p, a) / 8, **changes)) == {
        ("own.score-of-rows-twice", "")
    }
    assert failed(factory(evaluate=lambda p, a: total(p, a) / 8, linear_score=False, **changes)) == set()
    for mean in (lambda p, a: total(p, a) / len(a), lambda p, a: (total(p, a) / len(a)).sqrt()):
        assert failed(factory(evaluate=mean, **changes)) == set()
