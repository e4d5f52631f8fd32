from __future__ import annotations

import pytest
import torch
from torch import nn

from etrm.errors import ArgumentError
from etrm.training.ema import Ema
from tests.errors import raises_code
from tests.launches import Launches


class Counted(nn.Module):
    """A parameter, a float buffer and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.register_buffer("start", torch.tensor([5.0]))
        self.register_buffer("count", torch.tensor([3]))


@pytest.mark.parametrize("updates", [1, 2, 50])
@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_the_average_of_a_constant_is_that_constant(decay: float, updates: int) -> None:
    model = Counted()
    ema = Ema(model, decay)
    for _ in range(updates):
        ema.update(model)
    average = ema.average()
    torch.testing.assert_close(average["weight"], model.weight.detach())
    torch.testing.assert_close(average["start"], model.start)


def test_the_average_is_the_bias_corrected_sum() -> None:
    model, decay, values = Counted(), 0.8, [3.0, -1.0, 7.0, 2.0]
    ema = Ema(model, decay)
    for value in values:
        with torch.no_grad():
            model.weight.fill_(value)
        ema.update(model)
    shares = [decay ** (len(values) - 1 - i) for i in range(len(values))]
    expected = sum(s * v for s, v in zip(shares, values, strict=True)) / sum(shares)
    torch.testing.assert_close(ema.average()["weight"], torch.full((2,), expected))


def test_floats_are_averaged_and_counters_are_not() -> None:
    ema = Ema(Counted(), 0.9)
    assert set(ema.sums) == {"weight", "start"}


def test_half_precision_is_averaged_in_float32() -> None:
    model = Counted().to(torch.bfloat16)
    ema = Ema(model, 0.999)
    for _ in range(3):
        ema.update(model)
    assert {total.dtype for total in ema.sums.values()} == {torch.float32}
    torch.testing.assert_close(ema.average()["weight"], torch.tensor([1.0, -2.0]))


def test_an_average_of_nothing_is_refused() -> None:
    with raises_code(ArgumentError, "train.empty-average"):
        Ema(Counted(), 0.9).average()


def test_a_loaded_average_goes_on_as_if_never_interrupted() -> None:
    model = Counted()
    first, second = Ema(model, 0.7), Ema(model, 0.7)
    first.update(model)
    second.load({name: total.clone() for name, total in first.sums.items()}, first.updates)
    with torch.no_grad():
        model.weight.mul_(3)
    for ema in (first, second):
        ema.update(model)
    for name, value in first.average().items():
        assert torch.equal(value, second.average()[name]), name


def test_later_changes_of_the_weights_do_not_reach_the_average() -> None:
    model = Counted()
    ema = Ema(model, 0.5)
    ema.update(model)
    before = ema.average()["weight"].clone()
    with torch.no_grad():
        model.weight.add_(1)
    assert torch.equal(ema.average()["weight"], before)


def test_an_update_is_one_operation_on_all_weights() -> None:
    model = nn.Sequential(*(nn.Linear(2, size, device="meta") for size in range(2, 9)))
    ema = Ema(model, 0.9)
    with Launches() as launches:
        ema.update(model)
    assert launches.found == ["aten._foreach_lerp_.Scalar"]
