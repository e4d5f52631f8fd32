"""A low coverage that a mask of the program explains is a note; one that it does not is an accusation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Finding, Monitor, Severity, audit
from diagnostics.auditing.probes.operations.branch_checks import MASKED

B = 16
KEPT = (torch.arange(B) < 10).float()
Loss = Callable[[Tensor], Tensor]


def meant(error: Tensor) -> Tensor:
    return (error * KEPT).sum() / KEPT.sum()


def cut_too(error: Tensor) -> Tensor:
    """The mask keeps ten rows, and four of these have no gradient."""
    error = torch.cat([error[:6], error[6:].detach()])
    return meant(error)


def dropped(error: Tensor) -> Tensor:
    return error[:10].mean()


def step_of(loss: Loss) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda model, x: loss((model(x) - x.sum(1, keepdim=True)).square().sum(1))


def found_by_monitor(loss: Loss) -> list[Finding]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    monitor = Monitor(model, optimizer)
    for x in torch.randn(14, B, 4):
        with monitor.step(samples=B):
            step_of(loss)(model, x).backward()
            optimizer.step()
            optimizer.zero_grad()
    return [each for each in monitor.findings() if each.rule.startswith("COV")]


@pytest.mark.parametrize(("loss", "accused"), [(meant, False), (cut_too, True), (dropped, True)])
def test_a_mask_explains_the_samples_that_it_leaves_out_and_no_others(loss: Loss, accused: bool) -> None:
    found = found_by_monitor(loss)
    assert any(each.severity > Severity.NOTE for each in found) == accused
    if not accused:
        assert [(each.rule, each.code) for each in found] == [("COV004", MASKED.code)]
        assert {each.rule for each in found[0].consequences} == {"COV002"}
        assert found[0].evidence.value == pytest.approx(10 / B)


def test_an_audit_says_the_same() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    report = audit(model, step_of(meant), list(torch.randn(5, B, 4)), optimizer)
    known = [each for each in report.findings if each.rule.startswith("COV")]
    assert [(each.rule, each.code) for each in known] == [("COV004", MASKED.code)]
