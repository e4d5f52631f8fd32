"""Which losses of rows differ."""

from __future__ import annotations

import math

import pytest
from torch import tensor

from etrm.investigation.own_model.loss_probe import list_changed


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ((1.0, 2.0, 3.0), (1.0, 2.00001, 3.1), [2]),
        ((math.inf, 1.0, 1.0), (math.inf, 2.0, 1.0), [1]),
        ((math.nan, 1.0, 1.0), (math.nan, 1.0, 5.0), [2]),
        ((1.0, 1.0, math.inf), (math.inf, math.nan, -math.inf), [0, 1, 2]),
        ((0.0, 0.0), (0.0, 1e-13), [1]),
    ],
)
def test_rows_change_by_more_than_rounding_also_next_to_losses_that_are_not_finite(
    before: tuple[float, ...], after: tuple[float, ...], changed: list[int]
) -> None:
    assert list_changed(tensor(before).double(), tensor(after).double()) == changed
