"""Gradients of a module as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Monitor, Severity
from tests.diagnostics.rules.trainings import (
    BATCH,
    HEALTHY,
    Cases,
    Net,
    changed,
    cut_rows,
    through,
    train,
)

CASES: Cases = {
    "GRAD001": (lambda **o: train(Net(lambda c: c.detach()), **o), cut_rows(1)),
    "GRAD002": (lambda **o: train(Net(lambda c: 0.0 * c), **o), HEALTHY),
    "GRAD003": (
        changed(lambda model: model.head.requires_grad_(False)),
        changed(lambda model: model.head.requires_grad_(False), expect_frozen=["head"]),
    ),
    "GRAD005": (through(1e-6), through(1e-3)),
}


def test_a_faint_gradient_is_measured_against_the_other_modules() -> None:
    factor, model = 1e-6, Net()
    model.between = lambda c: factor * c + (1 - factor) * c.detach()
    monitor = Monitor(model)
    x = torch.randn(BATCH, 4)
    for _ in range(20):
        with monitor.step(samples=BATCH):
            model(x).square().sum().backward()
        pulls = {
            name: torch.stack([p.grad.norm() * p.detach().norm() for p in child.parameters()]).norm()
            for name, child in model.named_children()
        }
        model.zero_grad()
    (found,) = [finding for finding in monitor.findings() if finding.rule == "GRAD005"]
    assert found.module == "encoder"
    expected = pulls["encoder"] / max(pulls.values())
    assert found.evidence.value == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("scaled", [True, False])
def test_a_loss_that_was_not_scaled_is_named_by_the_scale(scaled: bool) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"one": nn.Linear(4, 2), "two": nn.Linear(4, 2)})
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    scaler = torch.amp.GradScaler("cpu")
    monitor = Monitor(model, optimizer)
    for x in torch.randn(25, 8, 4):
        with monitor.step(samples=8):
            losses = [(model[name](x) - x[:, :2]).square().mean() for name in ("one", "two")]
            scaler.scale(losses[0]).backward()
            (scaler.scale(losses[1]) if scaled else losses[1]).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    found = {(each.module, each.code) for each in monitor.findings() if each.rule == "GRAD005"}
    assert found == (set() if scaled else {("two", "not-scaled")})


class Branches(nn.Module):
    """Two branches and a head; the share of the first one falls to zero, and the second has the rest or nothing."""

    def __init__(self, replaced: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)
        self.share, self.replaced = 1.0, replaced

    def forward(self, x: Tensor) -> Tensor:
        found = self.share * self.first(x)
        if self.replaced:
            found = found + (1 - self.share) * self.second(x)
        return self.head(found)


@pytest.mark.parametrize(
    ("replaced", "expected"), [(True, {("first", "faded-out")}), (False, {("first", "zero-factor")})]
)
def test_a_branch_that_fades_out_next_to_another_one(replaced: bool, expected: set[tuple[str, str]]) -> None:
    model = Branches(replaced)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    monitor = Monitor(model, optimizer, watch=["first", "head"] + ["second"] * replaced)
    for step, x in enumerate(torch.randn(24, 8, 4)):
        model.share = max(0.0, 1 - step / 10)
        with monitor.step(samples=8):
            (model(x) - x[:, :2]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    found = [each for each in monitor.findings() if each.rule in ("GRAD002", "COV001", "COV002")]
    assert {(each.module, each.code) for each in found} == expected
    assert {each.severity > Severity.NOTE for each in found} == {not replaced}


@pytest.mark.parametrize(
    ("zero", "frozen", "code"),
    [
        (True, True, "frozen-at-zero"),
        (False, True, "requires-grad-false"),
        (True, False, None),
    ],
)
def test_a_layer_of_zeros_that_is_frozen(zero: bool, frozen: bool, code: str | None) -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4, bias=False))
    if zero:
        nn.init.zeros_(body[1].weight)
    model = nn.ModuleDict({"body": body.requires_grad_(not frozen), "head": nn.Linear(4, 2)})
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 0.01)
    monitor = Monitor(model, optimizer, watch=["body", "head"])
    for x in torch.randn(8, 8, 4):
        with monitor.step(samples=8):
            (model["head"](x + model["body"](x)) - x[:, :2]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    found = {each.code: each.severity for each in monitor.findings() if each.rule == "GRAD003"}
    assert set(found) == ({code} if code else set())
    assert Severity.WARNING in found.values() or code != "frozen-at-zero"


@pytest.mark.parametrize(("layers", "severity"), [(2, Severity.NOTE), (1, Severity.CRITICAL)])
def test_a_search_without_derivatives_changes_every_weight_itself(layers: int, severity: Severity) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    monitor = Monitor(model)
    for _ in range(6):
        with monitor.step(samples=BATCH), torch.no_grad():
            model(torch.randn(BATCH, 4))
            for weight in model[:layers].parameters():
                weight.add_(0.01 * torch.randn_like(weight))
    assert {each.severity for each in monitor.findings() if each.rule == "GRAD001"} == {severity}
    assert all(each.severity <= severity for each in monitor.findings())


def test_weights_of_zero_say_nothing_of_the_gradient() -> None:
    model = Net()
    model.head.weight.data.zero_()
    model.head.bias.data.zero_()
    optimizer = torch.optim.SGD([*model.encoder.parameters(), *model.core.parameters()], 1e-3)
    monitor = Monitor(model, optimizer)
    for x in torch.randn(25, BATCH, 4):
        with monitor.step(samples=BATCH):
            (model(x) + model.core(model.encoder(x))[:, :3] - 1).square().mean().backward()
            optimizer.step()
        model.zero_grad()
    assert "GRAD005" not in {each.rule for each in monitor.findings()}
