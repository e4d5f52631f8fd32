"""Averages of an optimiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.diagnostics.rules.trainings import HEALTHY, Cases, Net, adam, train


def averaging(betas: tuple[float, float], kind: type[torch.optim.Optimizer] = torch.optim.AdamW) -> Any:
    def run(**options: Any) -> set[str]:
        model = Net()
        return train(model, optimizer=kind(model.parameters(), lr=1e-3, betas=betas), **options)

    return run


CASES: Cases = {"RATE002": (averaging((0.999, 0.9)), HEALTHY)}


@pytest.mark.parametrize(
    ("betas", "exchanged"),
    [((0.99, 0.9), True), ((0.95, 0.95), False), ((0.0, 0.9), False), ((0.9, 0.9), False)],
)
def test_gradients_are_not_averaged_for_longer_than_their_squares(betas: Any, exchanged: bool) -> None:
    assert ("RATE002" in averaging(betas, torch.optim.NAdam)()) == exchanged


def test_a_schedule_may_change_the_factors() -> None:
    model = Net()
    optimizer = adam(model)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=20)

    def update(model: Net, optimizer: torch.optim.Optimizer, loss: torch.Tensor, step: int) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        cycle.step()

    assert train(model, optimizer=optimizer, update=update) == HEALTHY()
