"""A mark among the labels picks the last class, unless what it picks is left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import audit

Batch = tuple[Tensor, Tensor]


def codes(step: Any, mark: int = -1) -> list[str]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
    batches = [
        (x, x[:, :4].argmax(1).masked_fill(torch.arange(16) % 5 == 2, mark)) for x in torch.randn(3, 16, 5)
    ]
    report = audit(model, step, batches, torch.optim.SGD(model.parameters(), 0.01), steps=3)
    return [each.code for each in report.findings if each.rule == "ROWS005"]


def picked(model: nn.Module, batch: Batch) -> Tensor:
    return -model(batch[0]).log_softmax(1)[torch.arange(16), batch[1]]


def written(model: nn.Module, batch: Batch) -> Tensor:
    target = torch.zeros(16, 4)
    target[torch.arange(16), batch[1]] = 1.0
    return (model(batch[0]) - target).square().mean(1)


@pytest.mark.parametrize("pick", [picked, written])
def test_a_mark_that_picks_the_last_class_is_named_unless_it_is_left_out(pick: Any) -> None:
    assert codes(lambda model, batch: pick(model, batch).mean()) == ["counts-from-end"]
    assert codes(lambda model, batch: pick(model, batch)[batch[1] >= 0].mean()) == []


def test_other_negative_numbers_are_no_marks() -> None:
    """The last row that arange() - 1 picks first is meant."""
    turned = torch.arange(16) - 1
    assert codes(lambda model, batch: picked(model, (batch[0], batch[1].clamp(min=0)))[turned].mean()) == []
