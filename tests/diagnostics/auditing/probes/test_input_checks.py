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


@pytest.mark.parametrize(
    ("change", "norm", "code"),
    [
        (lambda x: x, False, None),
        (lambda x: 2e-3 * x, False, "small-next-to-bias"),
        (lambda x: 2e-3 * x, True, None),
        (lambda x: x + 200, False, "small-next-to-mean"),
        (lambda x: x.gt(1.2).float(), False, None),
        (lambda x: x.gt(2.0).float() / 4, False, None),
    ],
    ids=["standardised", "tiny", "tiny and normalised", "far from 0", "rare ones", "rarer ones"],
)
def test_how_much_the_first_layer_sees(
    change: Callable[[Tensor], Tensor], norm: bool, code: str | None
) -> None:
    torch.manual_seed(0)
    between = [nn.BatchNorm1d(16, eps=1e-12)] if norm else []
    model = nn.Sequential(nn.Linear(20, 16), *between, nn.ReLU(), nn.Linear(16, 1))
    batches = [change(x) for x in torch.randn(4, 32, 20)]
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    report = audit(model, lambda m, x: (m(x) - 1).square().mean(), batches, optimizer, steps=4)
    found = [(each.module, each.code) for each in report.findings if each.rule == "INPUT003"]
    assert found == ([("0", code)] if code else [])
