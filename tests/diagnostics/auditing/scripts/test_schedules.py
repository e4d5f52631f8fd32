"""A schedule of another optimiser than the one that trains is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from diagnostics.auditing.scripts.schedules import find_idle_schedules


@pytest.mark.parametrize(
    ("of_other", "advances", "shares", "named"),
    [
        (True, True, True, True),
        (True, False, True, False),
        (True, True, False, False),  # of weights that no other optimiser trains: a later stage
        (False, True, True, False),
    ],
)
@pytest.mark.parametrize("plateau", [False, True])
def test_the_schedule_of_an_optimizer_that_never_steps(
    of_other: bool, advances: bool, shares: bool, named: bool, plateau: bool
) -> None:
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    other = torch.optim.SGD((one if shares else two).parameters(), 0.1)
    trains = torch.optim.SGD(one.parameters(), 0.1)
    optimizer = other if of_other else trains
    trains.step()
    if plateau:
        waits = ReduceLROnPlateau(optimizer)
        waits.step(1.0) if advances else None
    else:
        falls = StepLR(optimizer, 2)
        optimizer._opt_called = True  # torch warns otherwise  # type: ignore[attr-defined]
        falls.step() if advances else None
    assert [(each.rule, each.code) for each in find_idle_schedules([trains])] == (
        [("RATE001", "schedule-of-idle-optimizer")] if named else []
    )
