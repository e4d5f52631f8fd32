"""Origins begin at one function and are carried by some; the first draw of a step knows its seed."""

from __future__ import annotations

import torch
from torch import nn

from diagnostics.auditing.tracing.operation_trace import trace_operations
from diagnostics.auditing.tracing.value_origins import (
    BLENDED,
    DECISION,
    LARGEST,
    OUTPUT,
    plain_name,
)


def test_names_of_variants_are_one_name() -> None:
    names = ("__rsub__", "sub_", "__isub__", "true_divide", "relu")
    assert list(map(plain_name, names)) == ["sub", "sub", "sub", "true_divide", "relu"]


def test_an_origin_goes_where_its_numbers_go() -> None:
    layer = nn.Linear(3, 2)
    with trace_operations(layer) as trace, torch.no_grad():
        output = layer(torch.randn(4, 3))
        largest = output.max()
        target = 1 + 0.9 * largest.expand(4)
        labels = output.argmax(1)
        compared = labels == 0
        resized = nn.functional.interpolate(torch.tensor([[[0.0, 3.0]]]), 3, mode="linear")
        halves = resized.long().flatten()
    assert trace.origins.of(output) == {OUTPUT}
    assert LARGEST in trace.origins.of(target)
    assert DECISION in trace.origins.of(labels)
    assert trace.origins.of(compared) == set()
    assert trace.origins.of(halves) == {BLENDED}
    assert trace.origins.of(torch.zeros(1)) == set()
