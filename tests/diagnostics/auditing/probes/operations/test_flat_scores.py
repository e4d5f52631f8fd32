"""Scores that no weights make different, and scores that are merely equal at the start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics.auditing.probes.operations.flat_scores import check_flat_scores
from diagnostics.auditing.replay import trace_step


class Net(nn.Module):
    def __init__(self, head: str = "random") -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 4)
        if head == "zero":
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
        elif head == "small":
            nn.init.normal_(self.head.weight, std=1e-6)
            nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.layer_norm(self.body(x), (16,)))


def contrast(scale: float) -> Any:
    def step(model: nn.Module, x: Tensor) -> Tensor:
        first, second = F.normalize(model(x), dim=1), F.normalize(model(x + 1), dim=1)
        return F.cross_entropy(scale * first @ second.T, torch.arange(len(x)))

    return step


def classify(scale: float) -> Any:
    return lambda model, x: F.cross_entropy(scale * model(x), x[:, :4].argmax(1))


def bounded(model: nn.Module, x: Tensor) -> Tensor:
    return F.cross_entropy(0.1 * model(x).tanh(), x[:, :4].argmax(1))


@pytest.mark.parametrize(
    ("step", "head", "flat"),
    [
        (contrast(0.07), "random", True),
        (bounded, "random", True),
        (contrast(1.0), "random", False),
        (contrast(14.0), "random", False),
        (classify(1.0), "random", False),
        (classify(1.0), "zero", False),
        (classify(1.0), "small", False),
    ],
    ids=["multiplied", "bounded", "cosines", "divided", "scores", "zero head", "small head"],
)
def test_scores_that_stay_equal_whatever_the_weights_are(step: Any, head: str, flat: bool) -> None:
    torch.manual_seed(0)
    model, batch = Net(head), torch.randn(16, 6)
    trace = trace_step(model, step, batch, [])
    assert trace is not None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = check_flat_scores(model, step, batch, [], [trace], lambda module: module)
    assert [each.code for each in found] == (["flat-for-all-weights"] if flat else [])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
