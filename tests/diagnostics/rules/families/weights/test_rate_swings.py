"""Learning rates that swing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from diagnostics import Monitor
from tests.diagnostics.rules.trainings import Cases, Training


def fired(steps: int, schedule: Any, **given: Any) -> set[str]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    scheduler = schedule(optimizer)
    monitor = Monitor(model, optimizer, **given)
    for _ in range(steps):
        with monitor.step(samples=8):
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()
    return {each.rule for each in monitor.findings()}


def cosine(length: int) -> Training:
    return lambda **given: fired(40, lambda o: lr_scheduler.CosineAnnealingLR(o, length), **given)


CASES: Cases = {"RATE001": (cosine(8), cosine(40))}


@pytest.mark.parametrize(
    ("schedule", "swings"),
    [
        (lambda o: lr_scheduler.CosineAnnealingLR(o, 12), True),
        (lambda o: lr_scheduler.CosineAnnealingLR(o, 30), False),  # does not come back in 50 steps
        (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 8), False),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=60), False),
        (lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=8), False),
        (lambda o: lr_scheduler.LinearLR(o, 1e-3, 1.0, 10), False),
        (lambda o: lr_scheduler.ExponentialLR(o, 0.9), False),
        (lambda o: lr_scheduler.LambdaLR(o, lambda step: 1.0), False),
    ],
)
def test_a_rate_that_falls_and_comes_back(schedule: Any, swings: bool) -> None:
    assert ("RATE001" in fired(50, schedule)) == swings


@pytest.mark.parametrize(
    ("steps", "schedule", "vanishes"),
    [
        (50, lambda o: lr_scheduler.ExponentialLR(o, 0.5), True),
        (50, lambda o: lr_scheduler.MultiStepLR(o, [8, 12, 16, 20], 0.1), True),
        (50, lambda o: lr_scheduler.MultiStepLR(o, [8, 12], 0.1), False),
        (50, lambda o: lr_scheduler.CosineAnnealingLR(o, 48), False),
        (60, lambda o: lr_scheduler.PolynomialLR(o, 55, 2.0), False),
        (24, lambda o: lr_scheduler.ExponentialLR(o, 0.5), False),  # 20 steps are not over
    ],
)
def test_a_rate_that_is_gone_for_good(steps: int, schedule: Any, vanishes: bool) -> None:
    assert ("RATE001" in fired(steps, schedule)) == vanishes


def test_weights_that_stand_still_follow_from_the_rate() -> None:
    assert fired(60, lambda o: lr_scheduler.ExponentialLR(o, 0.1)) == {"RATE001", "RULE001"}


def test_cycles_longer_than_the_option_are_meant() -> None:
    options = {"RATE001": {"steps": 10}}
    assert "RATE001" not in cosine(8)(options=options)


@pytest.mark.parametrize(
    ("rate", "schedule", "named"),
    [
        (3e-8, lambda step: 1.0, True),
        (3e-8, lambda step: 1.0 + step, False),  # a warm-up
        (1e-3, lambda step: 1.0, False),
    ],
)
def test_a_rate_that_changes_next_to_nothing(rate: float, schedule: Any, named: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), rate)
    scheduler = lr_scheduler.LambdaLR(optimizer, schedule)
    monitor = Monitor(model, optimizer)
    for x in torch.randn(25, 8, 4):
        with monitor.step(samples=8):
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()
    assert ("rate-next-to-nothing" in {each.code for each in monitor.findings()}) is named
