"""What losses are given as targets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from diagnostics import audit


def contrasted(masked: bool, partner: bool, normalised: bool = True) -> set[str]:
    torch.manual_seed(0)
    model = nn.Linear(6, 4)

    def step(model: nn.Module, x: Tensor) -> Tensor:
        rows = model(torch.cat([x, x + 0.1 * torch.randn_like(x)]))
        rows = rows / rows.norm(dim=1, keepdim=True) if normalised else rows
        scores = rows @ rows.T / 0.2
        scores = scores.masked_fill(torch.eye(len(rows)) > 0, -torch.inf) if masked else scores
        return cross_entropy(scores, torch.arange(len(rows)).roll(len(x) if partner else 0))

    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    report = audit(model, step, list(torch.randn(4, 8, 6)), optimizer, steps=4)
    return {each.code for each in report.findings if each.rule == "LOSS003"}


@pytest.mark.parametrize(
    ("masked", "partner", "normalised", "codes"),
    [
        (True, True, True, set()),
        (False, True, True, {"itself-among-others"}),
        (False, False, True, {"finds-itself"}),
        (False, True, False, set()),  # lengths decide which one is the most similar
    ],
)
def test_rows_that_are_compared_with_themselves(
    masked: bool, partner: bool, normalised: bool, codes: set[str]
) -> None:
    assert contrasted(masked, partner, normalised) == codes


@pytest.mark.parametrize(
    ("logarithms", "declared", "codes"),
    [
        (False, True, {"target-not-logarithms"}),
        (True, False, {"target-is-logarithm"}),
        (True, True, set()),
        (False, False, set()),
    ],
)
def test_targets_are_logarithms_where_that_is_declared(
    logarithms: bool, declared: bool, codes: set[str]
) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 4)

    def step(model: nn.Module, x: Tensor) -> Tensor:
        target = x[:, :4].log_softmax(1) if logarithms else x[:, :4].softmax(1)
        if declared:
            return kl_div(model(x).log_softmax(1), target, reduction="batchmean", log_target=True)
        return cross_entropy(model(x), target)

    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    report = audit(model, step, list(torch.randn(3, 8, 6)), optimizer, steps=3)
    assert {each.code for each in report.findings if each.rule == "LOSS003"} == codes
