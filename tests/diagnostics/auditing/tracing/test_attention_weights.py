"""The product that uses weights of an attention sums over what the softmax was over."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics.auditing.tracing.operation_trace import trace_operations

B, H, T, D = 3, 2, 4, 5
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values (B, H, T, D) -> what is read."""


def by_matmul(dim: int) -> Mix:
    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2) / D**0.5 + torch.zeros(T, T)
        return F.dropout(scores.softmax(dim), 0.1) @ v

    return mix


def by_einsum(dim: int) -> Mix:
    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(dim)
        return torch.einsum("bhqk, bhkd -> bhqd", weights, v)

    return mix


def by_bmm(dim: int) -> Mix:
    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (each.flatten(0, 1) for each in (q, k, v))
        return torch.bmm(F.softmax(torch.bmm(q, k.mT), dim), v)

    return mix


def divided(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries compete for keys, and each divides by its sum, as slots do."""
    weights = (q @ k.mT).softmax(-2)
    return (weights / weights.sum(-1, keepdim=True)) @ v


def capsules(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Parts choose among H wholes: one sum for each of them."""
    agreement = q[:, :, :1] @ k.mT
    return agreement.softmax(1) @ v


def clusters(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Nodes are assigned to clusters by a layer, not by a product of two."""
    return q.softmax(-1).mT @ v


@pytest.mark.parametrize(
    ("mix", "summed"),
    [
        (by_matmul(-1), [True]),
        (by_matmul(1), [False]),
        (by_matmul(2), [False]),
        (by_einsum(3), [True]),
        (by_einsum(1), [False]),
        (by_bmm(2), [True]),
        (by_bmm(1), [False]),
        (divided, []),
        (capsules, []),
        (clusters, []),
    ],
)
def test_a_use_of_weights_is_noted_with_what_it_sums_over(mix: Mix, summed: list[bool]) -> None:
    layers = nn.ModuleList(nn.Linear(D, D) for _ in range(3))
    x = torch.randn(B, H, T, D)
    with trace_operations(layers) as trace:
        mix(*(layer(x) for layer in layers))
    (call,) = trace.scores.softmaxes
    assert call.summed == summed
