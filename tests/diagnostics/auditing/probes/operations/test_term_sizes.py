"""Two losses on one trunk, whose sizes are set by the units of the targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics.auditing.probes.operations.term_sizes import check_sizes, distance, far_targets
from diagnostics.auditing.replay import trace_training_step
from diagnostics.auditing.tracing.operation_trace import OperationTrace


class Both(nn.Module):
    """A trunk with two heads; apart, each has a trunk of its own."""

    def __init__(self, apart: bool = False) -> None:
        super().__init__()
        self.trunk, self.other = nn.Linear(4, 8), nn.Linear(4, 8) if apart else None
        self.kinds, self.boxes = nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state = self.trunk(x).tanh()
        return self.kinds(state), self.boxes(state if self.other is None else self.other(x).tanh())


def traces(model: nn.Module, unit: float, factor: float = 1.0, share: float = 1.0) -> list[OperationTrace]:
    """Three steps; unit: size of the boxes, factor: of their loss, share: of the other one."""

    def step(model: Any, x: Tensor) -> Tensor:
        kinds, boxes = model(x)
        known = F.cross_entropy(kinds, torch.arange(16) % 3)
        return share * known + factor * F.mse_loss(boxes, unit * x[:, :2])

    found = [trace_training_step(model, step, torch.randn(16, 4), []) for _ in range(3)]
    return [each for each in found if each is not None]


@pytest.mark.parametrize(
    ("unit", "factor", "share", "apart", "named"),
    [
        (500.0, 1.0, 1.0, False, True),
        (1.0, 1.0, 1.0, False, False),
        (20.0, 1.0, 1.0, False, False),  # a tenth is not drowned
        (500.0, 1e-4, 1.0, False, False),  # balanced by hand
        (500.0, 1.0, 0.1, False, False),  # it is meant to count less
        (500.0, 1.0, 1.0, True, False),  # nothing is shared
    ],
)
def test_a_term_is_drowned_where_no_factor_balances_it(
    unit: float, factor: float, share: float, apart: bool, named: bool
) -> None:
    torch.manual_seed(0)
    found = check_sizes(traces(Both(apart), unit, factor, share))
    assert [each.code for each in found] == (["drowned"] if named else [])


def test_a_term_that_is_solved_has_little_gradient() -> None:
    torch.manual_seed(0)
    model = Both()
    with torch.no_grad():
        model.kinds.weight.zero_()

    def step(model: Any, x: Tensor) -> Tensor:
        kinds, boxes = model(x)
        right = torch.zeros(16, dtype=torch.long)
        known = F.cross_entropy(kinds + torch.tensor([9.0, 0.0, 0.0]), right)
        return known + F.mse_loss(boxes, 500 * x[:, :2])

    found = [trace_training_step(model, step, torch.randn(16, 4), []) for _ in range(3)]
    assert check_sizes([each for each in found if each is not None]) == []


@pytest.mark.parametrize(("offset", "far"), [(2000.0, True), (50.0, False)])
def test_targets_that_are_far_away(offset: float, far: bool) -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(4, 1), torch.randn(32, 4)
    found = trace_training_step(model, lambda model, x: F.mse_loss(model(x), x[:, :1] + offset), x, [])
    assert found is not None
    calls = list(far_targets([found, found]))
    assert bool(calls) is far
    for call in calls:
        expected = (model(x) - x[:, :1] - offset).detach().square().mean().sqrt()
        assert distance(call) == pytest.approx(float(expected))


def test_targets_that_the_outputs_approach_are_not_far() -> None:
    """Steps of a large rate: the distance falls to a tenth."""
    model, x = nn.Linear(4, 1), torch.randn(32, 4)
    found = []
    for offset in (2000.0, 1000.0, 200.0):
        each = trace_training_step(
            model, lambda model, x, offset=offset: F.mse_loss(model(x), x[:, :1] + offset), x, []
        )
        assert each is not None
        found.append(each)
    assert list(far_targets(found)) == []
