"""Equal units, and batch norms whose statistics say little."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from diagnostics import Monitor, Severity
from tests.diagnostics.rules.trainings import Cases


def found(
    model: nn.Module, samples: int = 6, shape: tuple[int, ...] = (4,), **options: Any
) -> set[tuple[str, str, str]]:
    """What is reported above a note after ten steps of training."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    monitor = Monitor(model, optimizer, **options)
    for _ in range(10):
        with monitor.step(samples=samples):
            (model(torch.randn(samples, *shape)) - 1.0).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return {
        (each.rule, each.module, each.code) for each in monitor.findings() if each.severity.name != "NOTE"
    }


@pytest.mark.parametrize("fill", [0.1, None])
def test_units_that_begin_equal_are_named_where_they_stay_so(fill: float | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    if fill is not None:
        for layer in (model[0], model[2]):
            nn.init.constant_(layer.weight, fill)
            nn.init.zeros_(layer.bias)
    named = {name for name in found(model) if name[0] == "UNITS001"}
    assert bool(named) is (fill is not None)


def test_a_layer_of_zeros_that_training_tells_apart_is_quiet() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    nn.init.zeros_(model[2].weight)
    assert not {name for name in found(model) if name[0] == "UNITS001"}


@pytest.mark.parametrize(
    ("norm", "samples", "codes"),
    [
        (lambda: nn.BatchNorm1d(3), 6, set()),
        (lambda: nn.BatchNorm1d(3, momentum=0.0), 6, {"momentum-zero"}),
        (lambda: nn.BatchNorm1d(3, momentum=0.99), 6, {"momentum-of-average"}),
        (lambda: nn.BatchNorm1d(3, momentum=None), 6, set()),
        (lambda: nn.BatchNorm1d(3), 1, {"one-sample"}),
        (lambda: nn.GroupNorm(1, 3), 1, set()),
    ],
)
def test_batch_norms(norm: Callable[[], nn.Module], samples: int, codes: set[str]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 1), norm(), nn.Conv1d(3, 2, 1))
    named = found(model, samples, (2, 5))
    assert {code for rule, module, code in named if rule == "MODE003" and module == "1"} == codes


def rules_of(fill: float | None = None, momentum: float = 0.1, **options: Any) -> set[str]:
    """The rules that fire on a small network."""
    torch.manual_seed(0)
    middle = nn.Tanh() if fill is not None else nn.BatchNorm1d(5, momentum=momentum)
    model = nn.Sequential(nn.Linear(4, 5), middle, nn.Linear(5, 2))
    if fill is not None:
        nn.init.constant_(model[2].weight, fill)
        nn.init.constant_(model[0].weight, fill)
        nn.init.zeros_(model[0].bias)
    return {rule for rule, _, _ in found(model, **options)}


CASES: Cases = {
    "UNITS001": (partial(rules_of, 0.1), rules_of),
    "MODE003": (partial(rules_of, momentum=0.0), rules_of),
}


def test_zeros_on_both_sides_stay_zero_and_are_one_finding() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor = Monitor(model, optimizer)
    for x in torch.randn(12, 8, 4):
        with monitor.step(samples=8):
            nn.functional.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
            optimizer.step()
            optimizer.zero_grad()
    above = [each for each in monitor.findings() if each.severity > Severity.NOTE]
    assert [(each.rule, each.code) for each in above] == [("UNITS001", "same-start-still")]
