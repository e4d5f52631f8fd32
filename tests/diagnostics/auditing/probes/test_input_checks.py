"""Inputs that nothing reads and batches that a step changes are found; what is read or copied is not accused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Severity, audit

SAMPLES = 8


class Pair(nn.Module):
    """Two branches; `use` says what becomes of the two arguments."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 1)
        self.use = use

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        if self.use == "twice":
            hidden = self.left(one) + self.right(one)
        elif self.use == "one":
            hidden = self.left(one)
        elif self.use == "shape":
            hidden = self.left(one)[: other.shape[0]]
        else:
            hidden = self.left(one) + self.right(other)
        return self.head(hidden.tanh())


def of_inputs(step: Callable[[nn.Module, Any], Tensor], model: nn.Module, batches: list[Any]) -> set[Any]:
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    report = audit(model, step, batches, optimizer, steps=6)
    return {(each.code, each.severity) for each in report.findings if each.rule in ("INPUT001", "INPUT002")}


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        ("both", set()),
        ("twice", {("another-input-read-twice", Severity.WARNING)}),
        ("one", {("input-unread", Severity.NOTE)}),
        ("shape", {("input-unread", Severity.NOTE)}),
    ],
)
def test_what_becomes_of_two_inputs(use: str, expected: set[Any]) -> None:
    torch.manual_seed(0)
    batches = [(one, -one) for one in torch.randn(6, SAMPLES, 4)]
    assert of_inputs(lambda m, b: m(b[0], b[1]).square().mean(), Pair(use), batches) == expected
    assert all(torch.equal(one, -other) for one, other in batches)


@pytest.mark.parametrize(
    ("change", "batches", "expected"),
    [
        (lambda x: x.add_(1), 3, {("batch-changed-again", Severity.WARNING)}),
        (lambda x: x.add_(1), 9, {("batch-changed", Severity.NOTE)}),
        (lambda x: x.clone().add_(1), 3, set()),
        (lambda x: x.clamp_(-100, 100), 3, set()),
    ],
    ids=["again", "once", "clone", "same numbers"],
)
def test_a_batch_that_the_step_changes(
    change: Callable[[Tensor], Tensor], batches: int, expected: set[Any]
) -> None:
    torch.manual_seed(0)
    data = list(torch.randn(batches, SAMPLES, 4))
    assert (
        of_inputs(lambda m, b: m(change(b)).square().mean(), nn.Sequential(nn.Linear(4, 2)), data) == expected
    )
