"""Hidden modules: critical where weights are used that nothing trains, a note where it looks meant."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Finding, Monitor, Severity
from tests.diagnostics.rules.trainings import Cases, Listed, changed

CASES: Cases = {
    "HIDDEN001": (
        changed(lambda model: setattr(model, "encoder", Listed(registered=False))),
        changed(lambda model: setattr(model, "encoder", Listed(registered=True))),
    ),
}


class Student(nn.Module):
    """A network with another one in a list."""

    def __init__(self, other: Callable[[nn.Module], nn.Module], used: bool, grad: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.other = [other(self.body)]
        self.used = used
        self.grad = grad

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.used:
            with torch.set_grad_enabled(self.grad):
                target = self.other[0](x)
            y = y - target
        return y


def found(model: nn.Module, optimizer: Any = "own") -> list[Finding]:
    own = torch.optim.Adam(model.parameters())
    monitor = Monitor(model, own if optimizer == "own" else optimizer)
    for _ in range(6):
        with monitor.step(samples=8):
            model(torch.randn(8, 4)).square().mean().backward()
            own.step()
            own.zero_grad()
    return [each for each in monitor.findings() if each.rule == "HIDDEN001"]


def frozen(body: nn.Module) -> nn.Module:
    return copy.deepcopy(body).requires_grad_(False)


def another(body: nn.Module) -> nn.Module:
    return nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("other", "used", "grad", "code", "severity"),
    [
        (another, True, True, "hidden-and-used", Severity.CRITICAL),
        (copy.deepcopy, True, True, "hidden-and-used", Severity.CRITICAL),
        (another, False, True, "hidden", Severity.WARNING),
        (another, True, False, "hidden", Severity.WARNING),
        (copy.deepcopy, True, False, "hidden-on-purpose", Severity.NOTE),
        (copy.deepcopy, False, True, "hidden-on-purpose", Severity.NOTE),
        (frozen, True, True, "hidden-on-purpose", Severity.NOTE),
    ],
    ids=["layer", "copy with gradient", "spare", "no grad", "average", "unused average", "teacher"],
)
def test_severity_follows_the_evidence(
    other: Callable[[nn.Module], nn.Module], used: bool, grad: bool, code: str, severity: Severity
) -> None:
    (finding,) = found(Student(other, used, grad))
    assert (finding.module, finding.code, finding.severity) == ("", code, severity)
    assert "other[0]" in finding.message


def test_a_parameter_that_receives_gradient_is_used() -> None:
    model = Student(another, used=True, grad=True)
    scales = [nn.Parameter(torch.ones(4))]
    model.scales, model.other = scales, [lambda x: x * scales[0]]
    (finding,) = found(model)
    assert (finding.code, finding.severity) == ("hidden-and-used", Severity.CRITICAL)
    assert "scales[0]" in finding.message


def test_without_an_optimiser_it_is_not_known_that_nothing_trains_it() -> None:
    (finding,) = found(Student(another, used=True, grad=True), optimizer=None)
    assert (finding.code, finding.severity) == ("hidden", Severity.WARNING)


def test_the_tensors_that_learn_outside_are_its_consequences() -> None:
    (finding,) = found(Student(another, used=True, grad=True))
    assert [each.rule for each in finding.consequences] == ["REACH005"]
