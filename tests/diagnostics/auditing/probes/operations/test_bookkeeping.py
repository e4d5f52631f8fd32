"""Metrics over pairs, seeds in each step and weights that are their own copy are found; what looks alike is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import Monitor, Severity, audit

B = 16
RULES = ("METRIC001", "RANDOM001", "SHARE004")


def found(around: Callable[[nn.Module, Any, Tensor], Any]) -> set[str]:
    """The rules that fire on a classifier with a dropout, after something else is done in each of its steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    batches = [(x, x[:, :3].argmax(1)[:, None]) for x in torch.randn(4, B, 6)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        around(model, batch, model[3](model[0](batch[0])).detach())
        return F.cross_entropy(model(batch[0]), batch[1][:, 0])

    report = audit(model, step, batches, torch.optim.SGD(model.parameters(), 0.01), steps=4)
    return {each.rule for each in report.findings if each.rule in RULES}


def average(model: nn.Module, kept: list[Tensor]) -> None:
    with torch.no_grad():
        for old, new in zip(kept, model.parameters(), strict=True):
            old += 0.5 * (new - old)
            new.copy_(old)


FOUND: dict[str, tuple[Callable[[nn.Module, Any, Tensor], Any], str | None]] = {
    "predictions and a column": (lambda m, b, s: (s.argmax(1) == b[1]).float().mean(), "METRIC001"),
    "indices of max() and a column": (lambda m, b, s: s.max(1).indices.eq(b[1]).sum(), "METRIC001"),
    "predictions and a vector": (lambda m, b, s: (s.argmax(1) == b[1][:, 0]).float().mean(), None),
    "columns": (lambda m, b, s: (s.argmax(1, keepdim=True) == b[1]).float().mean(), None),
    "which are of one class": (lambda m, b, s: b[1][:, 0] == b[1][:, 0][:, None], None),
    "which are predicted alike": (lambda m, b, s: s.argmax(1) == s.argmax(1).unsqueeze(1), None),
    "a seed": (lambda m, b, s: torch.manual_seed(3), "RANDOM001"),
    "a seed of the batch": (lambda m, b, s: torch.manual_seed(int(b[0].sum() * 1e4) % 10**6), None),
    "a draw": (lambda m, b, s: torch.rand(3), None),
    "weights that are their own copy": (
        lambda m, b, s: average(m, [p.data for p in m.parameters()]),
        "SHARE004",
    ),
    "weights and a copy": (lambda m, b, s: average(m, [p.detach().clone() for p in m.parameters()]), None),
    "a state that is loaded again": (lambda m, b, s: m.load_state_dict(m.state_dict()), "SHARE004"),
    "a number without its value": (lambda m, b, s: (m[0].weight - m[0].weight.detach()).sum(), None),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_a_step_does_next_to_its_loss(name: str) -> None:
    around, rule = FOUND[name]
    assert found(around) == ({rule} if rule else set())


@pytest.mark.parametrize(
    ("name", "frozen", "evaluated", "learns", "expected"),
    [
        ("helper", True, False, False, {("helper", "frozen-and-random")}),
        ("helper", True, True, False, set()),
        ("helper", False, False, False, set()),
        ("helper", True, False, True, set()),  # a body with adapters has a dropout in training
        ("teacher", True, False, False, set()),  # an average of its sibling may be noisy on purpose
    ],
)
def test_a_frozen_module_with_dropout(
    name: str, frozen: bool, evaluated: bool, learns: bool, expected: set[tuple[str, str]]
) -> None:
    torch.manual_seed(0)
    own, other = (nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)) for _ in range(2))
    model = nn.ModuleDict({"student": own, name: other.requires_grad_(not frozen)})

    def step(model: Any, x: Tensor) -> Tensor:
        model[name].train(not evaluated)
        with torch.set_grad_enabled(learns):
            wanted = model[name](x if not learns else model["student"](x) @ torch.ones(3, 6))
        return (model["student"](x) - wanted).square().mean()

    optimizer = torch.optim.SGD(own.parameters(), 0.01)
    report = audit(model, step, list(torch.randn(4, B, 6)), optimizer, steps=4, samples=len)
    assert {(each.module, each.code) for each in report.findings if each.rule == "MODE002"} == expected


@pytest.mark.parametrize("own", [True, False])
def test_a_target_that_is_its_model_is_one_finding(own: bool) -> None:
    torch.manual_seed(0)
    model = nn.Module()
    model.student = nn.Linear(4, 2)
    model.ema_student = copy.deepcopy(model.student).requires_grad_(False) if own else model.student
    optimizer = torch.optim.Adam(model.student.parameters(), 1e-3)
    monitor = Monitor(model, optimizer)
    for x in torch.randn(12, 8, 4):
        with monitor.step(samples=8):
            steady = model.ema_student(x).detach().softmax(1)
            F.cross_entropy(model.student(x), steady).backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                pairs = zip(model.ema_student.parameters(), model.student.parameters(), strict=True)
                for mean, now in pairs:
                    mean.lerp_(now, 0.1)
    above = [each for each in monitor.findings() if each.severity > Severity.NOTE]
    assert [(each.rule, each.code) for each in above] == ([] if own else [("SHARE003", "alias-of-role")])
    assert own or "SHARE004" in {each.rule for each in above[0].consequences}
