"""Rows that are all added up in one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diagnostics import audit


def pooled(kind: str, x: Tensor, index: Tensor) -> Tensor:
    zeros = x.new_zeros(5, x.shape[1])
    if kind == "index_add":
        return zeros.index_add(0, index, x)
    if kind == "in place":
        return zeros.index_add_(0, index, x)
    return zeros.scatter_add(0, index[:, None].expand_as(x), x)


@pytest.mark.parametrize("kind", ["index_add", "in place", "scatter_add"])
@pytest.mark.parametrize("index", [torch.zeros(20, dtype=torch.long), torch.arange(20) // 4])
def test_all_rows_in_one_place(kind: str, index: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def step(model: nn.Module, x: Tensor) -> Tensor:
        return (pooled(kind, model(x), index) - 1).square().mean()

    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    report = audit(model, step, list(torch.randn(3, 20, 3)), optimizer, steps=3, samples=lambda x: 5)
    found = [each.code for each in report.findings if each.rule == "ROWS004"]
    assert found == ([] if index.any() else ["one-place"])
