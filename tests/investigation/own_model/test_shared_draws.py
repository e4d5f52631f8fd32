"""Every row gets the random numbers of the first one; draws that this does not cover are reported."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import dropout, scaled_dot_product_attention

from etrm.investigation.own_model.shared_draws import SharedDraws

ROWS = 4


def attend() -> Tensor:
    rows = torch.ones(ROWS, 2, 5, 3)
    return scaled_dot_product_attention(rows, rows, torch.eye(5)[:, :3].expand_as(rows), dropout_p=0.5)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.randn(ROWS, 3),
        lambda: torch.rand_like(torch.zeros(ROWS, ROWS, 2)),
        lambda: torch.randint(100, 200, (ROWS,)),
        lambda: torch.empty(ROWS).exponential_(),
        lambda: dropout(torch.ones(ROWS, 7), 0.5),
        lambda: torch.randn(3) + torch.zeros(ROWS, 1),
        attend,
    ],
)
def test_rows_share_random_numbers(draw: Callable[[], Tensor]) -> None:
    torch.manual_seed(0)
    with SharedDraws(ROWS) as draws:
        drawn = draw()
        another = draw()
    assert draws.complete
    assert torch.equal(drawn, drawn[:1].expand_as(drawn))
    assert not torch.equal(drawn, another)


def test_steps_first_share_random_numbers_too() -> None:
    with SharedDraws(ROWS):
        drawn = dropout(torch.ones(50, ROWS), 0.5)
    assert torch.equal(drawn, drawn[:, :1].expand_as(drawn))
    assert not torch.equal(drawn, drawn[:1].expand_as(drawn))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.randperm(ROWS),
        lambda: torch.randint(ROWS, (ROWS,)),
        lambda: torch.bernoulli(torch.full((ROWS,), 0.5)),
        lambda: torch.multinomial(torch.ones(ROWS, 3), 1),
        lambda: torch.randn(2 * ROWS, 3),
        lambda: np.random.rand(),  # noqa: NPY002
        random.random,
    ],
)
def test_other_draws_are_reported(draw: Callable[[], object]) -> None:
    with SharedDraws(ROWS) as draws:
        draw()
    assert not draws.complete
