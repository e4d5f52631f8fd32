"""Units at the flat end of their function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import audit


class Net(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor], scale: float, shift: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(10, 32), nn.Linear(32, 2)
        self.function = function
        with torch.no_grad():
            self.first.weight.mul_(scale * 3**0.5)  # outputs of about this deviation
            self.first.bias.fill_(shift)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


def audited(model: nn.Module) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(64, 10, generator=generator) for _ in range(4)]
    step = lambda model, x: (model(x) - x[:, :2]).square().mean()  # noqa: E731
    return list(audit(model, step, batches, torch.optim.SGD(model.parameters(), 1e-3), steps=8).findings)


@pytest.mark.parametrize(
    ("function", "scale", "shift", "code"),
    [
        (torch.tanh, 30.0, 0.0, "saturated"),
        (torch.sigmoid, 300.0, 0.0, "saturated"),
        (torch.relu, 1.0, -30.0, "dead-units"),
        (torch.tanh, 1.0, 0.0, ""),
        (torch.tanh, 3.0, 0.0, ""),
        (torch.sigmoid, 3.0, 0.0, ""),
        (torch.relu, 1.0, -1.0, ""),
        (torch.relu, 1e4, 0.0, ""),  # it has no flat end above 0
    ],
)
def test_flat_units_are_one_finding_of_the_layer_before(
    function: Callable[[Tensor], Tensor], scale: float, shift: float, code: str
) -> None:
    found = [each for each in audited(Net(function, scale, shift)) if each.rule == "UNITS002"]
    assert [(each.module, each.code) for each in found] == ([("first", code)] if code else [])


def test_what_follows_from_it_is_listed_under_it() -> None:
    found = audited(Net(torch.relu, 1.0, -30.0))
    (cause,) = [each for each in found if each.severity.name != "NOTE"]
    assert cause.rule == "UNITS002"
    assert {"GRAD002"} <= {each.rule for each in cause.consequences}


class Classifier(nn.Module):
    """A sigmoid that the loss reads may be certain."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(1e3 * self.body(x))


def test_a_certain_answer_is_no_flat_unit() -> None:
    def step(model: nn.Module, x: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy(model(x), (x[:, :2] > 0).float())

    model = Classifier()
    batches = list(torch.randn(4, 64, 10))
    report = audit(model, step, batches, torch.optim.SGD(model.parameters(), 1e-6), steps=4)
    assert "UNITS002" not in {each.rule for each in report.findings}


@pytest.mark.parametrize(
    ("lower", "named"),
    [(9.0, True), (0.0, False), (-9.0, False)],
    ids=["above all outputs", "above half of them", "below all"],
)
def test_a_clamp_that_cuts_off_all(lower: float, named: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(10, 2)
    step = lambda model, x: (model(x).clamp(min=lower) - x[:, :2]).square().mean()  # noqa: E731
    batches = list(torch.randn(4, 64, 10))
    report = audit(model, step, batches, torch.optim.SGD(model.parameters(), 1e-3), steps=8)
    codes = [each.code for each in report.findings if each.rule == "UNITS002"]
    assert codes == (["clamped-away"] if named else [])


def test_a_bound_next_to_another_term_is_meant() -> None:
    torch.manual_seed(0)
    model = nn.Linear(10, 2)
    step = lambda model, x: (model(x) - x[:, :2]).square().mean() + model(x).clamp(min=9).mean()  # noqa: E731
    report = audit(
        model, step, list(torch.randn(4, 64, 10)), torch.optim.SGD(model.parameters(), 1e-3), steps=8
    )
    assert all(each.rule != "UNITS002" for each in report.findings)
