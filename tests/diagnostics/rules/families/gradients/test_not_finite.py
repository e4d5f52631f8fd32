"""Gradients that are not finite."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Monitor
from tests.diagnostics.rules.trainings import Cases, in_loss, skipping_broken, train, updated

CASES: Cases = {
    "REACH003": (
        lambda **o: train(scale=in_loss, **o),
        updated(skipping_broken, scale=in_loss),
    ),
}


class Chain(nn.Module):
    """Three layers; the root of the sum of what the second gives is that of 0 for samples of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.divisor = torch.ones(())

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(torch.relu(self.first(x))) / self.divisor)


def train_chain(model: Chain, zero_from: int, root: bool = False) -> Monitor:
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    monitor = Monitor(model, optimizer)
    for number in range(8):
        model.divisor.fill_(float(number < zero_from))
        with monitor.step(samples=5):
            output = model(torch.randn(5, 4))
            (torch.sqrt(output - output) if root else output.square()).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return monitor


def cleaning(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
    """As StyleGAN does: what is not finite becomes a number before it is applied."""
    loss.backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        torch.nan_to_num(parameter.grad, nan=0.0, posinf=1e5, neginf=-1e5, out=parameter.grad)
    optimizer.step()
    optimizer.zero_grad()


def cleaning_too_late(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
    loss.backward()
    optimizer.step()
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.nan_to_num_()


@pytest.mark.parametrize("optimizers", [{}, {"optimizers": None}])
def test_gradients_that_are_cleaned_before_the_update_damage_nothing(optimizers: dict[str, None]) -> None:
    assert "REACH003" not in train(scale=in_loss, update=cleaning, **optimizers)
    assert "REACH003" in train(scale=in_loss, update=cleaning_too_late, **optimizers)


def test_numbers_that_are_not_finite_are_one_finding_where_the_first_arose() -> None:
    inside = train_chain(Chain(), zero_from=2).findings()
    assert [(each.module, each.code) for each in inside if each.rule == "REACH003"] == [
        ("third", "overflow-in-output")
    ]
    assert {each.module for one in inside for each in one.consequences} <= {"first", "second", "third", ""}
    in_loss = train_chain(Chain(), zero_from=9, root=True).findings()
    assert [(each.module, each.code) for each in in_loss if each.rule == "REACH003"] == [
        ("", "overflow-in-loss")
    ]
