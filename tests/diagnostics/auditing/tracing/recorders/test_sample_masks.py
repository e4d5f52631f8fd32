"""Masks of samples in a loss, of several forms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from diagnostics.auditing.tracing.operation_trace import trace_operations

B = 12
KEPT = torch.arange(B) < 8
Y = torch.arange(B) % 3
Loss = Callable[[Tensor], Tensor]

LOSSES: dict[str, tuple[Loss, bool]] = {
    "masked mean": (lambda out: (out.square().sum(1) * KEPT).sum() / KEPT.sum(), True),
    "small number added": (lambda out: (KEPT.float()[:, None] * out).sum() / (3 * KEPT.sum() + 1e-8), False),
    "of float": (lambda out: (KEPT.float() * out.sum(1)).sum() / (KEPT.float().sum() + 1e-8), True),
    "ignored": (lambda out: cross_entropy(out, torch.where(KEPT, Y, -100)), True),
    "picked": (lambda out: out.square().sum(1)[KEPT].mean(), True),
    "divided by all": (lambda out: (out.square().sum(1) * KEPT).sum() / B, False),
    "cut": (lambda out: out[:8].square().mean(), False),
    "nothing hidden": (lambda out: (out.sum(1) * torch.ones(B)).sum() / B, False),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_mean_over_the_rows_that_a_mask_keeps(name: str) -> None:
    loss, masked = LOSSES[name]
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    with trace_operations(model) as trace:
        loss(model(torch.randn(B, 4)))
    assert [each.kept.tolist() for each in trace.masks.found] == ([KEPT.tolist()] if masked else [])


def test_masks_inside_a_module_are_its_own() -> None:
    class Masked(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * KEPT[:, None]) * KEPT[:, None] / KEPT.sum()

    with trace_operations(model := nn.Sequential(Masked(4, 3))) as trace:
        model(torch.randn(B, 4)).sum()
    assert trace.masks.found == []
