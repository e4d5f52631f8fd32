"""Rows of a batch: wrong labels, equal batches, and batches that can be joined."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from etrm.investigation.own_model.batch_rows import are_equal, can_join, make_wrong


@pytest.mark.parametrize(
    ("labels", "wrong"),
    [
        (torch.tensor([0, 2, -100]), torch.tensor([2, 0, -100])),
        (torch.tensor([5, 5]), torch.tensor([4, 4])),  # a class that exists, also if 5 is the last one
        (torch.tensor([0, -100]), torch.tensor([1, -100])),
        (torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])),
        (torch.eye(3), 1 - torch.eye(3)),
        (torch.tensor([True, False]), torch.tensor([False, True])),
        (torch.tensor([1.0, math.nan, 3.0]), torch.tensor([12.0, math.nan, 14.0])),
        (torch.tensor([math.nan]), torch.tensor([math.nan])),
    ],
)
def test_wrong_labels_differ_and_padding_stays(labels: Tensor, wrong: Tensor) -> None:
    assert torch.equal(make_wrong(labels).nan_to_num(-1.0), wrong.nan_to_num(-1.0))


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        (torch.tensor([1.0, math.nan]), True),
        (torch.tensor([1.0, 0.0]), False),
        (torch.tensor([1.0, math.inf]), False),
        (torch.tensor([[1.0, math.nan]]), False),
        (torch.tensor([1, 0]), False),
    ],
)
def test_batches_are_equal_bit_for_bit(other: Tensor, equal: bool) -> None:
    assert are_equal({"x": torch.tensor([1.0, math.nan])}, {"x": other}) is equal


def test_batches_of_other_lengths_cannot_be_joined() -> None:
    short, long = ({"x": torch.zeros(2, length), "name": "a"} for length in (3, 4))
    assert can_join([short, {"x": torch.zeros(5, 3), "name": "b"}])
    assert not can_join([short, long])
