"""Training in evaluation mode."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diagnostics import Monitor
from tests.diagnostics.rules.trainings import Cases, changed, left_in_evaluation, with_dropout

CASES: Cases = {
    "MODE001": (changed(left_in_evaluation), changed(with_dropout)),
}


@pytest.mark.parametrize(("trains", "ends"), [(True, False), (False, True), (True, True), (False, False)])
def test_the_mode_is_that_of_the_calls_that_are_trained(trains: bool, ends: bool) -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1)), nn.Linear(8, 1))
    monitor = Monitor(model, torch.optim.SGD(model.parameters(), 0.1))
    for x in torch.randn(6, 8, 4):
        with monitor.step(samples=8):
            model.eval()
            aim = torch.autograd.grad(model(x.requires_grad_()).sum(), x)[0]  # of the input, as of an attack
            model.train(trains)
            model(x.detach() + aim).square().mean().backward()
            model.train(ends)
    assert ("MODE001" in {each.rule for each in monitor.findings()}) == (not trains)
