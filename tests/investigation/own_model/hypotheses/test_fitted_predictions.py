"""A batch is fitted: predictions that do not give its answers are found, and what fits nothing is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etrm.investigation.own_model.hypotheses.fitted_predictions import check_fitted_predictions, lacks_fields
from tests.investigation.own_model.toy_adapter import factory

CHANGES = {"steps": 20, "optimizer": lambda model: torch.optim.Adam(model.parameters(), 0.1)}


def answer(model: nn.Module, rows: dict[str, Any]) -> Tensor:
    return model(rows["demos"], rows["query"])


@pytest.mark.parametrize(
    ("predict", "passed"),
    [
        (lambda model, rows: answer(model, rows).argmax(-1), True),
        (lambda model, rows: answer(model, rows).roll(1, -1).argmax(-1), False),  # another output
        (lambda model, rows: answer(model, rows).argmax(-1).roll(1, 0), False),  # rows in another order
        (lambda model, rows: answer(model, rows).argmin(-1), False),
    ],
)
def test_predictions_give_the_answers_that_were_fitted(predict: Callable[..., Tensor], passed: bool) -> None:
    assert check_fitted_predictions(factory(predict=predict, **CHANGES), 0).row.passed is passed


def test_an_error_is_better_if_it_is_smaller() -> None:
    def fit(model: nn.Module, rows: dict[str, Any]) -> Tensor:
        return (answer(model, rows)[:, :3] - rows["query"]).square().sum(1)

    changes = CHANGES | {
        "step": lambda model, rows: fit(model, rows).mean(),
        "sample_losses": fit,
        "labels": "query",
        "evaluate": lambda p, a: (p - a).square().mean().item(),
        "best_score": 0.0,
        "worst_score": None,
    }
    for output, passed in ((0, True), (1, False)):
        predict = lambda model, rows, first=output: answer(model, rows)[:, first : first + 3]  # noqa: E731
        assert check_fitted_predictions(factory(predict=predict, **changes), 0).row.passed is passed


def test_what_is_not_fitted_and_what_follows_the_weights_slowly_is_left_out() -> None:
    slow = factory(steps=1, optimizer=lambda model: torch.optim.SGD(model.parameters(), 1e-6))
    assert check_fitted_predictions(slow, 0).row.passed is None
    kept = {"demos": torch.zeros(8, 4)}
    averaged = factory(predict=lambda model, rows: kept["demos"].argmax(-1), **CHANGES)
    assert check_fitted_predictions(averaged, 0).row.passed is None


def test_it_needs_what_it_compares() -> None:
    assert not lacks_fields(factory().build(0))
    for changes in ({"sample_losses": None}, {"independent_rows": False}, {"best_score": float("inf")}):
        assert lacks_fields(factory(**changes).build(0))
