"""Gradients of single parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from diagnostics import Monitor, Severity
from tests.diagnostics.rules.trainings import (
    WIDTH,
    Cases,
    Net,
    changed,
    dead_units,
    normalised,
    train,
)

CASES: Cases = {
    "REACH001": (
        changed(lambda model: setattr(model.encoder, "spare", nn.Parameter(torch.ones(2)))),
        changed(
            lambda model: setattr(model.encoder, "spare", nn.Parameter(torch.ones(2), requires_grad=False))
        ),
    ),
    "REACH002": (changed(dead_units(-100.0)), changed(dead_units(0.0))),
    "REACH004": (changed(normalised(bias=True)), changed(normalised(bias=False))),
}


def test_a_bias_that_cannot_change_the_loss_is_no_parameter_that_does_not_move() -> None:
    model = Net()
    normalised(bias=True)(model)
    nn.init.constant_(model.encoder[0].bias, 1.0)  # a gradient of rounding size does not change a bit of it
    assert train(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.01)) & {"MOVE001", "REACH004"} == {
        "REACH004"
    }


@pytest.mark.parametrize("normed", [False, True])
def test_a_bias_that_the_difference_of_two_means_cancels_is_no_dead_unit(normed: bool) -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), parametrizations.weight_norm(head) if normed else head)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    monitor = Monitor(model, optimizer)
    for x in torch.randn(8, 8, 4):
        with monitor.step(samples=8):
            (model(x[:4] + 1).mean() - model(x[4:]).mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
    found = {each.rule for each in monitor.findings() if each.module == "2"}
    assert found & {"REACH002", "REACH004"} == {"REACH004"}


class Codebook(nn.Module):
    """Moves each code to an average of what it stands for, in each forward pass; `learns` if gradient comes to it."""

    def __init__(self, learns: bool) -> None:
        super().__init__()
        self.codes = nn.Embedding(8, 4)
        self.scale = nn.Parameter(torch.ones(()))
        self.learns = learns

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x, self.codes.weight).argmin(1)
        average = 0.9 * self.codes.weight + 0.1 * x[nearest.clamp(max=len(x) - 1)].mean(0)
        self.codes.weight = nn.Parameter(average.detach())
        chosen = self.codes(nearest)
        return self.scale * (chosen if self.learns else x + (chosen - x).detach())


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("model_clears", [True, False])
def test_a_tensor_that_each_step_puts_in_place_of_a_parameter(learns: bool, model_clears: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Codebook(learns), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor = Monitor(model, optimizer)
    for _ in range(8):
        with monitor.step(samples=6):
            model(torch.randn(6, 4)).square().mean().backward()
            optimizer.step()
            (model if model_clears else optimizer).zero_grad()
    found = {(each.code, each.severity) for each in monitor.findings(select=["REACH001"])}
    noted, accused = ("remade-in-step", Severity.NOTE), ("replaced-parameter", Severity.WARNING)
    assert found == {accused if learns else noted}


def test_a_parameter_that_was_replaced_once_is_no_average() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor = Monitor(model, optimizer)
    model.head.weight = nn.Parameter(torch.randn(3, WIDTH))
    for _ in range(8):
        with monitor.step(samples=6):
            model(torch.randn(6, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert [each.code for each in monitor.findings(select=["REACH001"])] == ["replaced-parameter"]


def codes_of_zeros(reader: nn.Module) -> set[str]:
    """The causes that REACH002 names after some steps on sequences."""
    optimizer = torch.optim.SGD(reader.parameters(), 0.1)
    monitor = Monitor(reader, optimizer)
    for x in torch.randn(8, 6, 5, 4):
        with monitor.step(samples=6):
            reader(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return {each.code for each in monitor.findings() if each.rule == "REACH002"}


@pytest.mark.parametrize(
    ("read", "codes"),
    [
        (lambda out, last: out[:, -1], {"first-state-of-reverse"}),
        (lambda out, last: out[:, 0], {"first-state"}),
        (lambda out, last: last.transpose(0, 1).flatten(1), set()),
        (lambda out, last: out.mean(1), set()),
    ],
    ids=["last place", "first place", "last states", "mean"],
)
def test_two_directions_of_which_one_is_read_too_early(read: Any, codes: set[str]) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reader = nn.GRU(4, 8, batch_first=True, bidirectional=True)
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(read(*self.reader(x)))

    assert codes_of_zeros(Reader()) == codes


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize(("place", "codes"), [(0, {"first-state"}), (-1, set())])
def test_a_recurrence_whose_first_state_alone_is_read(
    kind: type[nn.RNNBase], place: int, codes: set[str]
) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.reader, self.head = kind(4, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.reader(x)[0][:, place])

    assert codes_of_zeros(Reader()) == codes


class Branch(nn.Module):
    """A frozen layer, and two factors of a correction of it, scaled."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.base, self.scale = nn.Linear(4, 4).requires_grad_(False), scale
        self.narrow, self.wide = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)
        nn.init.zeros_(self.wide.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * self.wide(self.narrow(x))


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_a_branch_whose_factor_is_zero_is_no_dead_unit_and_no_start_of_equal_units(scale: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Branch(scale), nn.Tanh(), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    monitor = Monitor(model, optimizer)
    for _ in range(8):
        with monitor.step(samples=6):
            model(torch.randn(6, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    found = {(each.rule, each.module, each.code) for each in monitor.findings() if each.rule[:3] != "RUL"}
    assert found == ({("REACH002", "0", "branch-at-zero")} if scale == 0 else set())


class Hidden(nn.Module):
    """Two layers with an activation between, whose argument may be left out."""

    def __init__(self, bias: float, factor: float) -> None:
        super().__init__()
        self.up, self.down, self.factor = nn.Linear(4, 8), nn.Linear(8, 2), factor
        nn.init.constant_(self.up.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down(self.up(self.factor * x).relu())
        return down


@pytest.mark.parametrize(
    ("bias", "factor", "code"), [(-100.0, 1.0, "dead-unit"), (0.1, 0.0, "zero-input"), (0.1, 1.0, None)]
)
def test_zeros_that_a_layer_gets_of_dead_units_are_their_consequence(
    bias: float, factor: float, code: str | None
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Hidden(bias, factor), nn.Linear(2, 2))
    monitor = Monitor(model)
    for _ in range(8):
        with monitor.step(samples=6):
            (model(torch.randn(6, 4)) - 1).square().mean().backward()
    found = [(each.module, each.code) for each in monitor.findings() if each.rule == "REACH002"]
    assert found == ([] if code is None else [("0", code)])
