"""Gradients that are changed after they were applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import audit

Order = Callable[[nn.Module, torch.optim.Optimizer], None]


def clipped_late(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)


def clipped_late_and_cleared(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    clipped_late(model, optimizer)
    optimizer.zero_grad()


def clipped_first(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def set_to_zero(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)


def added_to(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The backward pass of another loss, as of a generator through its critic."""
    optimizer.step()
    model(torch.ones(4, 3)).square().sum().backward()


@pytest.mark.parametrize(
    ("order", "late"),
    [
        (clipped_late, True),
        (clipped_first, False),
        (set_to_zero, False),
        (added_to, False),
        (clipped_late_and_cleared, True),
    ],
)
def test_a_change_after_the_update(order: Order, late: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def step(model: nn.Module, x: Tensor) -> float:
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        order(model, optimizer)
        return loss.item()

    report = audit(model, step, list(torch.randn(4, 4, 3)), optimizer, steps=8)
    assert ("MOVE007" in {each.rule for each in report.findings}) is late


@pytest.mark.parametrize(
    ("place", "to_none", "factor", "named"),
    [
        ("before", True, 1.0, True),
        ("before", False, 1.0, True),
        ("after", True, 1.0, False),
        ("both", True, 1.0, False),
        ("after", True, 0.0, False),
        ("never", True, 1.0, False),
    ],
)
def test_clipping_before_there_is_a_gradient(place: str, to_none: bool, factor: float, named: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def step(model: nn.Module, x: Any) -> float:
        optimizer.zero_grad(set_to_none=to_none)
        loss = factor * model(x).square().mean()
        if place in ("before", "both"):
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        loss.backward()
        if place in ("after", "both"):
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    report = audit(model, step, list(torch.randn(4, 8, 4)), optimizer, steps=6)
    codes = {each.code for each in report.findings if each.rule == "MOVE007"}
    assert codes == ({"clipped-before-backward"} if named else set())


@pytest.mark.parametrize(
    ("how", "enabled", "named"),
    [
        ("scaler", True, False),
        ("unscaled by hand", True, False),
        ("optimizer", True, True),
        ("optimizer", False, False),
    ],
)
def test_a_scaled_gradient_is_applied_by_the_scaler(how: str, enabled: bool, named: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=enabled)

    def step(model: nn.Module, x: Tensor) -> float:
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        scaler.scale(loss).backward()
        if how == "unscaled by hand":
            scaler.unscale_(optimizer)
        if how == "optimizer":
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        return loss.item()

    report = audit(model, step, list(torch.randn(4, 4, 3)), optimizer, steps=8)
    found = {each.code for each in report.findings if each.rule == "MOVE007"}
    assert found == ({"applied-while-scaled"} if named else set())


@pytest.mark.parametrize("used_up", [True, False])
def test_clipping_needs_parameters(used_up: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    parameters = iter(list(model.parameters())) if used_up else list(model.parameters())
    optimizer = torch.optim.SGD(parameters, 0.01)

    def step(model: nn.Module, x: Tensor) -> float:
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.item()

    report = audit(model, step, list(torch.randn(4, 4, 3)), optimizer, steps=8)
    codes = {each.code for each in report.findings if each.rule == "MOVE007"}
    assert codes == ({"clips-nothing"} if used_up else set())
