"""Tensors that learn, or should learn, outside of the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diagnostics import Monitor
from tests.diagnostics.rules.trainings import Cases, Listed, changed

CASES: Cases = {
    "REACH005": (
        changed(lambda model: setattr(model, "encoder", Listed(registered=False))),
        changed(lambda model: setattr(model, "encoder", Listed(registered=True))),
    ),
}


@pytest.mark.parametrize(
    ("kind", "named"),
    [("unused", True), ("used elsewhere", False), ("in turn", False), ("of the model", False)],
)
def test_what_an_optimiser_holds_next_to_the_model(kind: str, named: bool) -> None:
    """Another layer in the optimiser: never used, used in each step, in every second one, or frozen in the model."""
    torch.manual_seed(0)
    model, other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), nn.Linear(2, 2)
    if kind == "of the model":
        model.append(other.requires_grad_(False))
    optimizer = torch.optim.SGD(list(dict.fromkeys([*model.parameters(), *other.parameters()])), 0.01)
    monitor = Monitor(model, optimizer)
    for number, x in enumerate(torch.randn(20, 8, 4)):
        with monitor.step(samples=8):
            output = model(x)
            if kind == "used elsewhere" or (kind == "in turn" and number % 2):
                output = other(output)
            output.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    found = [each for each in monitor.findings() if each.rule == "REACH008"]
    assert [(each.module, each.evidence.value) for each in found] == ([("", 2.0)] if named else [])


def test_weights_that_were_replaced_are_named_once() -> None:
    """The optimiser holds the old ones, and the model's own are in no group: MOVE001 alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    monitor = Monitor(model, optimizer)
    for x in torch.randn(12, 8, 4):
        with monitor.step(samples=8):
            model(x).square().mean().backward()
            optimizer.step()
            model.zero_grad()
    rules = {each.rule for each in monitor.findings() if each.severity.name != "NOTE"}
    assert "MOVE001" in rules
    assert "REACH008" not in rules
