"""Frozen parameters that move."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diagnostics import Monitor, Severity
from tests.diagnostics.rules.trainings import Cases, Net, head_taken_out, head_zeroed, updated

CASES: Cases = {
    "FROZEN001": (
        updated(head_zeroed, expect_frozen=["head"]),
        updated(head_taken_out, expect_frozen=["head"]),
    ),
}


@pytest.mark.parametrize(
    ("group", "expected"), [("all", [("encoder", "unread-attribute")]), ("without the encoder", [])]
)
def test_an_attribute_that_torch_does_not_read(group: str, expected: list[Any]) -> None:
    model = Net()
    model.encoder.requires_grad = False
    parts = [model.core, model.head, *([model.encoder] if group == "all" else [])]
    optimizer = torch.optim.SGD([weight for part in parts for weight in part.parameters()], 0.01)
    monitor = Monitor(model, optimizer)
    for _ in range(6):
        with monitor.step(samples=8):
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            model.zero_grad()
    found = [each for each in monitor.findings() if each.rule == "FROZEN001"]
    assert [(each.module, each.code) for each in found] == expected
    assert all(each.severity is Severity.WARNING for each in found)
