"""A loss that no update changes, and healthy losses that look like one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Finding, Monitor, Severity, audit
from tests.diagnostics.rules.trainings import Cases, Training

Step = Callable[[nn.Module, Tensor], Any]
BATCHES = [torch.randn(8, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


def copied(model: nn.Module, x: Tensor) -> Tensor:
    """The answer is the input; a penalty that is exactly zero keeps the graph, and decay moves the weights."""
    return (x - x.roll(1, 0)).square().mean() + 0 * model(x).sum()


def learned(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - x).square().mean()


def hinge(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x).abs().sum(1) - 1e3).relu().mean()


def found(step: Step, batches: Any = BATCHES, **options: Any) -> list[Finding]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.pop("lr", 1e-2), weight_decay=0.1)
    report = audit(model, step, batches, optimizer, **options)
    return [each for each in report.findings if each.rule == "LOSS002"]


def training(step: Step) -> Training:
    return lambda **options: {finding.rule for finding in found(step, **options)}


CASES: Cases = {"LOSS002": (training(copied), training(learned))}


def test_it_is_critical_where_the_weights_move() -> None:
    (finding,) = found(copied)
    assert (finding.module, finding.code, finding.severity) == ("", "loss-constant", Severity.CRITICAL)
    assert finding.evidence.value == 18  # of 20 steps, the first of each batch has nothing to compare with


def test_a_loss_of_zero_is_a_note() -> None:
    (finding,) = found(hinge)
    assert (finding.code, finding.severity) == ("loss-zero", Severity.NOTE)


@pytest.mark.parametrize("regularisers", [[], ["copy"]], ids=["task", "regulariser"])
def test_a_constant_term_is_named(regularisers: list[str]) -> None:
    def terms(model: nn.Module, x: Tensor) -> dict[str, Any]:
        return {"copy": copied(model, x), "fit": learned(model, x), "number": 2.0}

    (finding,) = found(terms, regularisers=regularisers)
    assert finding.message.startswith("copy is ")
    assert finding.code == ("penalty-constant" if regularisers else "loss-constant")


@pytest.mark.parametrize(
    ("step", "options"),
    [
        (learned, {}),
        (learned, {"lr": 1e-6}),
        (copied, {"lr": 0.0}),
        (copied, {"steps": 6}),
        (lambda model, x: copied(model, x).bfloat16(), {}),
        (lambda model, x: copied(model, x) + 1e-3 * torch.rand(()), {}),
    ],
    ids=["healthy", "slow", "nothing moves", "too few", "half precision", "noise"],
)
def test_it_does_not_fire(step: Step, options: dict[str, Any]) -> None:
    assert found(step, **options) == []


def test_other_batches_are_not_compared() -> None:
    generator = torch.Generator().manual_seed(0)
    fresh = (torch.randn(8, 4, generator=generator) for _ in range(20))
    assert found(copied, fresh) == []


def test_a_monitor_compares_batches_that_have_a_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    codes = {}
    for named in (False, True):
        monitor = Monitor(model, optimizer)
        for step in range(14):
            with monitor.step(samples=8, batch=step % 2 if named else None):
                loss = copied(model, BATCHES[step % 2])
                monitor.loss(loss)
                loss.backward()
                optimizer.step()
        findings = monitor.findings(select=["LOSS002", "RULE001"])
        codes[named] = {finding.code for finding in findings} & {"loss-constant", "no-repetition"}
    assert codes == {False: {"no-repetition"}, True: {"loss-constant"}}
