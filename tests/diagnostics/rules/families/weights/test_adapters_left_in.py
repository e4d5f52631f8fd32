"""Adapters that are merged between steps and left in; not those that are taken out or begin anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Monitor
from tests.diagnostics.rules.trainings import Cases


class Adapted(nn.Module):
    """A frozen layer with factors as parameters or as layers of their own."""

    def __init__(self, layers: bool) -> None:
        super().__init__()
        self.base = nn.Linear(6, 8).requires_grad_(False)
        self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 8, bias=False)
        nn.init.zeros_(self.up.weight)
        if not layers:
            self.a, self.b = self.down.weight, self.up.weight
            del self.down, self.up

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        return (self.up.weight, self.down.weight) if hasattr(self, "up") else (self.b, self.a)

    def forward(self, x: Tensor) -> Tensor:
        up, down = self.factors
        return self.base(x) + 2 * x @ down.T @ up.T

    @torch.no_grad()
    def merge(self, sign: float = 1.0) -> None:
        up, down = self.factors
        self.base.weight.data += sign * 2 * up @ down


def anew(net: nn.Sequential) -> None:
    net[0].merge()
    with torch.no_grad():
        net[0].factors[0].zero_()


def noise(net: nn.Sequential) -> None:
    with torch.no_grad():
        net[0].base.weight.add_(0.01 * torch.randn(8, 6))


def rules(between: Callable[[nn.Sequential], object], layers: bool = False, **options: Any) -> set[str]:
    torch.manual_seed(0)
    net = nn.Sequential(Adapted(layers), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam((each for each in net.parameters() if each.requires_grad), 1e-2)
    monitor = Monitor(net, optimizer, **options)
    for step in range(12):
        with monitor.step(samples=5):
            net(torch.randn(5, 6)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        if step % 4 == 3:
            between(net)
    return {finding.rule for each in monitor.findings() for finding in (each, *each.consequences)}


def taken_out(net: nn.Sequential) -> None:
    net[0].merge()
    net(torch.randn(5, 6))
    net[0].merge(-1.0)


CASES: Cases = {
    "FROZEN002": (
        lambda **o: rules(lambda net: net[0].merge(), **o),
        lambda **o: rules(taken_out, **o),
    ),
}


@pytest.mark.parametrize("layers", [False, True])
@pytest.mark.parametrize(
    ("between", "left"),
    [(lambda net: net[0].merge(), True), (anew, False), (noise, False), (taken_out, False)],
)
def test_an_adapter_that_stays_in_its_weight(between: Callable[..., None], left: bool, layers: bool) -> None:
    assert ("FROZEN002" in rules(between, layers)) == left
