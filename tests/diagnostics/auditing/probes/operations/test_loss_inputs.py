"""Numbers that clamp() makes probabilities of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import audit


@pytest.mark.parametrize("squashed", [False, True])
def test_logits_that_are_clamped(squashed: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def step(model: nn.Module, x: Tensor) -> Tensor:
        scores = model(x).sigmoid() if squashed else model(x)
        return F.binary_cross_entropy(scores.clamp(1e-4, 1 - 1e-4), (x[:, :1] > 0).float())

    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    report = audit(model, step, list(torch.randn(3, 16, 4)), optimizer, steps=3)
    codes = [each.code for each in report.findings if each.rule == "LOSS003"]
    assert codes == ([] if squashed else ["clamped-logits"])
