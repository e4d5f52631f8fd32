"""A selection that leaves nothing of its data is noted, one that leaves something or selects a graph is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics.auditing.tracing.operation_trace import trace_operations

LABELS = torch.arange(12) % 5
ALL, SOME = torch.ones(12, dtype=torch.bool), torch.arange(12) < 11


def assigned(mask: Tensor) -> Any:
    labels = LABELS.clone()
    labels[mask] = 5
    return labels


@pytest.mark.parametrize(
    ("select", "emptied"),
    [
        (lambda: torch.where(ALL, 5, LABELS), True),
        (lambda: torch.where(~ALL, LABELS, torch.full((12,), 5)), True),
        (lambda: LABELS.masked_fill(ALL, 5), True),
        (lambda: LABELS.clone().masked_fill_(ALL, 5), True),
        (lambda: assigned(ALL), True),
        (lambda: assigned(torch.rand(12).bool()), True),
        (lambda: torch.where(SOME, 5, LABELS), False),
        (lambda: torch.where(ALL, LABELS, 5), False),
        (lambda: assigned(SOME), False),
        (lambda: assigned(torch.arange(1, 12)), False),  # numbers of places
        (lambda: torch.where(ALL, 5.0, LABELS + torch.ones(1, requires_grad=True)), False),
        (lambda: torch.where(ALL, LABELS + 1, LABELS), False),
        (lambda: torch.where(ALL[:1].expand(12), 5, LABELS), False),  # a draw for the whole batch
        (lambda: torch.where(ALL, 5, torch.zeros(12)), False),
        (lambda: torch.where(ALL[:7], 5, LABELS[:7]), False),
    ],
)
def test_a_selection(select: Callable[[], Tensor], emptied: bool) -> None:
    with trace_operations(nn.Linear(1, 1)) as trace:
        select()
    assert bool(trace.selections.emptied) == emptied
