"""Steps without a backward pass, and passes that do not count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Monitor, Severity, audit
from tests.diagnostics.rules.trainings import (
    BATCH,
    Cases,
    Net,
    Training,
    adam,
    every_fourth,
    never_cleared,
    updated,
)

Update = Callable[[nn.Module, torch.optim.Optimizer, Tensor], object]


def run(update: Update, **options: Any) -> Monitor:
    model = Net()
    optimizer = adam(model)
    monitor = Monitor(model, optimizer, **options)
    for _ in range(8):
        with monitor.step(samples=BATCH):
            update(model, optimizer, model(torch.randn(BATCH, 4)).square().mean())
    return monitor


def forgotten(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.step()
    optimizer.zero_grad()


def whole(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def rules(update: Update) -> Training:
    return lambda **options: {finding.rule for finding in run(update, **options).findings()}


def train_on_perturbed(perturb: str) -> set[str]:
    """Fast adversarial training: the first of two passes finds the perturbation that the second one trains on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor = Monitor(model, optimizer)
    for _ in range(8):
        x, labels = torch.randn(6, 4), torch.randint(3, (6,))
        with monitor.step(samples=6):
            change = torch.zeros_like(x, requires_grad=perturb == "inputs")
            for _ in range(2):
                nn.functional.cross_entropy(model((x + change).clamp(-3, 3)), labels).backward()
                optimizer.zero_grad()
                if change.grad is not None:
                    change.data += 0.1 * change.grad.sign()
            nn.functional.cross_entropy(model(x + change), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return {each.code for each in monitor.findings() if each.severity > Severity.NOTE}


def test_a_pass_whose_gradient_of_the_inputs_is_used_is_not_wasted() -> None:
    assert train_on_perturbed("inputs") == set()
    assert train_on_perturbed("nothing") == {"pass-discarded"}


def discarded(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
    loss.backward(retain_graph=True)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def accumulated(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
    (0.25 * loss).backward(retain_graph=True)
    (0.75 * loss).backward()
    optimizer.step()
    optimizer.zero_grad()


CASES: Cases = {
    "STEP001": (rules(forgotten), rules(whole)),
    "GRAD004": (updated(never_cleared), updated(every_fourth, steps=40)),
    "GRAD006": (updated(discarded), updated(accumulated)),
}


def test_a_forgotten_backward_is_the_only_finding() -> None:
    above = [finding for finding in run(forgotten).findings() if finding.severity.label != "note"]
    assert [(finding.rule, finding.module, finding.code) for finding in above] == [
        ("STEP001", "", "no-backward")
    ]
    assert {each.rule for each in above[0].consequences} >= {"GRAD001", "COV001"}


def test_an_audit_of_a_step_that_forgets_it_names_it() -> None:
    model = Net()
    optimizer = adam(model)

    def step(model: nn.Module, x: Tensor) -> float:
        loss = model(x).square().mean()
        optimizer.step()
        return loss.item()

    found = audit(model, step, [torch.randn(BATCH, 4)], optimizer, steps=6)
    assert [finding.rule for finding in found.findings if finding.severity.label != "note"] == ["STEP001"]


def test_a_turn_of_another_player_is_no_forgotten_backward() -> None:
    monitor = run(lambda model, optimizer, loss: None)
    assert "STEP001" not in {finding.rule for finding in monitor.findings()}


def test_a_loss_that_is_cut_in_the_model_is_another_fault() -> None:
    model = Net(lambda context: context.detach())
    model.core.requires_grad_(False)
    model.head.requires_grad_(False)
    free = nn.Parameter(torch.ones(()))
    monitor = Monitor(
        model, torch.optim.SGD([*model.encoder.parameters(), free], 0.1), watch=["encoder", "core"]
    )
    for _ in range(8):
        with monitor.step(samples=BATCH), torch.no_grad():
            model(torch.randn(BATCH, 4))
    assert "STEP001" not in {finding.rule for finding in monitor.findings()}


@pytest.mark.parametrize("cleared", [True, False])
@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.SGD])
def test_the_gradient_that_a_closure_brings_is_the_one_that_is_applied(kind: Any, cleared: bool) -> None:
    model = Net()
    optimizer = kind(model.parameters(), lr=1e-3)
    x = torch.randn(BATCH, 4)

    def closure() -> Tensor:
        if cleared:
            optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    monitor = Monitor(model, optimizer)
    for _ in range(8):
        with monitor.step(samples=BATCH):
            optimizer.zero_grad()
            optimizer.step(closure)
    found = {each.rule for each in monitor.findings() if each.severity > Severity.NOTE}
    several = kind is torch.optim.LBFGS  # evaluations
    assert found == (set() if cleared or not several else {"GRAD004"})


def test_a_closure_may_add_to_the_gradient_of_other_parts() -> None:
    """As trainers do that accumulate: the last part runs in the closure."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def closure() -> Tensor:
        loss = model(torch.randn(BATCH // 2, 4)).square().mean() / 2
        loss.backward()
        return loss

    monitor = Monitor(model, optimizer)
    for _ in range(8):
        with monitor.step(samples=BATCH):
            closure()
            optimizer.step(closure)
            optimizer.zero_grad()
    assert "GRAD004" not in {each.rule for each in monitor.findings()}
