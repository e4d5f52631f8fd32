"""Movement of parameters."""

from __future__ import annotations

import pytest
import torch

from tests.diagnostics.rules.trainings import (
    HEALTHY,
    Cases,
    Net,
    clipped_at,
    every_fourth,
    head_taken_out,
    head_zeroed,
    mostly_undone,
    never_stepped,
    rate_zero,
    train,
    updated,
)

CASES: Cases = {
    "MOVE001": (rate_zero, HEALTHY),
    "MOVE002": (updated(head_zeroed), updated(head_taken_out)),
    "MOVE003": (updated(never_stepped, steps=24), updated(every_fourth, steps=24)),
    "MOVE004": (updated(clipped_at(1e-9), steps=24), updated(clipped_at(1e-3), steps=24)),
    "MOVE005": (updated(mostly_undone(0.95)), updated(mostly_undone(0.5))),
}


@pytest.mark.parametrize("norm", [1e-9, 1e-6])
def test_a_gradient_clipped_to_nothing_is_lost_with_any_optimiser(norm: float) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = train(model, optimizer=optimizer, update=clipped_at(norm), steps=24)
    assert found & {"MOVE001", "MOVE004"} == {"MOVE004"}


def test_what_is_undone_in_whole_did_not_move() -> None:
    assert updated(mostly_undone(1.0))() & {"MOVE001", "MOVE005"} == {"MOVE001"}


def test_a_small_loss_is_no_gradient_that_was_lost() -> None:
    assert "MOVE004" not in train(scale=lambda step: 1e-12, steps=24)
