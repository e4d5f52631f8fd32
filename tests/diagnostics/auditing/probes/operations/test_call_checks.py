"""A step that gives the model its data again, or loses a state, is named; the same step without the fault is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import Monitor, Severity, audit

B = 64
RULES = ("INPUT004", "INPUT005", "STATE002", "LOSS004", "INPUT001")


class Reader(nn.Module):
    """Reads a sequence from a first state."""

    def __init__(self, noise: bool) -> None:
        super().__init__()
        self.read, self.head, self.noise = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 1), noise

    def forward(self, x: Tensor) -> Tensor:
        start = torch.randn(1, len(x), 8) if self.noise else torch.zeros(1, len(x), 8)
        return self.head(self.read(x, start)[0][:, -1])


def few_rows(broken: bool) -> Any:
    torch.manual_seed(0)
    model, rows = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), torch.randn(4, 4)
    data = [rows.repeat(B // 4, 1)[torch.randperm(B)] if broken else torch.randn(B, 4) for _ in range(4)]
    return model, lambda model, x: F.mse_loss(model(x), torch.randn(B, 1)), data


def noise_as_state(broken: bool) -> Any:
    torch.manual_seed(0)
    return Reader(broken), lambda model, x: model(x).square().mean(), list(torch.randn(4, B, 5, 4))


def same_views(broken: bool) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    pairs = [
        (x, torch.tensor(x.tolist()) if broken else x + 0.1 * torch.randn(B, 4)) for x in torch.randn(4, B, 4)
    ]

    def step(model: nn.Module, views: Any) -> Tensor:
        one, other = (F.normalize(model(view), dim=1) for view in views)
        return F.cross_entropy(one @ other.T / 0.2, torch.arange(B))

    return model, step, pairs


CASES: dict[str, tuple[Callable[[bool], Any], str, str]] = {
    "few rows": (few_rows, "INPUT004", "few-different-rows"),
    "noise as state": (noise_as_state, "STATE002", "noise-as-state"),
    "same views": (same_views, "INPUT004", "same-data-twice"),
}


@pytest.mark.parametrize("name", CASES)
def test_faults_of_calls(name: str) -> None:
    make, rule, code = CASES[name]
    for broken in (True, False):
        model, step, data = make(broken)
        report = audit(model, step, data, torch.optim.SGD(model.parameters(), 1e-3), steps=4)
        found = {(each.rule, each.code) for each in report.findings if each.rule in RULES}
        assert found == ({(rule, code)} if broken else set())


@pytest.mark.parametrize(
    "first", [torch.randn, torch.zeros], ids=["reads draws", "reads the same token for all samples"]
)
def test_a_generator_starts_from_noise_on_purpose(first: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    report = audit(
        model := Reader(noise=True),
        lambda model, x: (model(first(B, 5, 4)).std() - x.std()).square(),
        list(torch.randn(4, B, 5, 4)),
        torch.optim.SGD(model.parameters(), 1e-3),
        steps=4,
    )
    assert "STATE002" not in {each.rule for each in report.findings}


@pytest.mark.parametrize("broken", [True, False])
def test_data_that_are_not_a_number_explain_all_that_follows(broken: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    monitor = Monitor(model, optimizer)
    for x in torch.randn(12, B, 4):
        with monitor.step(samples=B):
            optimizer.zero_grad()
            model(x.log() if broken else x).square().mean().backward()
            optimizer.step()
    above = {(each.rule, each.code) for each in monitor.findings() if each.severity > Severity.NOTE}
    assert above - {("LINEAR001", "one-linear-map")} == ({("INPUT005", "nan-in-input")} if broken else set())
