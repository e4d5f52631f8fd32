"""Attributes that look like requires_grad and freeze nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from diagnostics.recording.inspection.freezing_attributes import find_freezing_attributes


def on_module(model: nn.Sequential) -> None:
    model[0].requires_grad = False


def misspelt(model: nn.Sequential) -> None:
    model[1].weight.require_grad = False


def of_the_model(model: nn.Sequential) -> None:
    model.requires_grad = False


def properly(model: nn.Sequential) -> None:
    model[0].requires_grad_(False)
    model[0].requires_grad = False


def switched_on(model: nn.Sequential) -> None:
    model[0].requires_grad = True


def another_switch(model: nn.Sequential) -> None:
    model[0].require_mask = False


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (on_module, {"0": "requires_grad"}),
        (misspelt, {"1.weight": "require_grad"}),
        (of_the_model, {"": "requires_grad"}),
        (properly, {}),
        (switched_on, {}),
        (another_switch, {}),
    ],
)
def test_what_was_meant_to_be_frozen(
    change: Callable[[nn.Sequential], None], expected: dict[str, str]
) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    change(model)
    assert find_freezing_attributes(model) == expected
