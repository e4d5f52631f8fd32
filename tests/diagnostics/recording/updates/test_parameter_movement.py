"""Frozen weights are not copied, and what moves them is seen to the last bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from diagnostics import Monitor
from diagnostics.recording.updates.parameter_movement import Movement

Write = Callable[[nn.Parameter, int], None]


def train(write: Write, steps: int = 12, **given: object) -> tuple[Monitor, list[bool]]:
    """Whether the frozen weight changed, in each step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 300), nn.Linear(300, 3))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[1].parameters(), 0.1)
    monitor = Monitor(model, optimizer)
    seen = []
    for step in range(steps):
        with monitor.step(samples=6):
            model(torch.randn(6, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            write(model[0].weight, step)
        seen.append(monitor.last.parameters["0.weight"].changed)
    return monitor, seen


def one_bit(weight: nn.Parameter, step: int) -> None:
    if step == 6:
        with torch.no_grad():
            weight.view(-1).view(torch.int32)[900] ^= 1


def past_the_counter(weight: nn.Parameter, step: int) -> None:
    if step >= 4:
        weight.data[200:].add_(1.0)


def doubled(weight: nn.Parameter, step: int) -> None:
    if step in (2, 5):
        with torch.no_grad():
            weight.mul_(2.0)


def test_a_weight_that_stands_still_has_no_copy() -> None:
    monitor, seen = train(lambda weight, step: None)
    assert seen == [False] * 12
    copies = monitor._recorder._parameters._movement.fall
    assert sorted(copies) == [2, 3]
    record = monitor.last.parameters["0.weight"]
    assert record.weight_norm == pytest.approx(float(monitor._model[0].weight.norm()))
    assert record.moved == 0.0


def test_one_bit_is_seen_in_its_step() -> None:
    assert train(one_bit)[1] == [step == 6 for step in range(12)]


def test_a_write_past_the_counter_is_seen_at_the_next_comparison_and_in_each_step_after_it() -> None:
    """Digests are compared after 1, 2, 4 and 8 steps; the first 64 numbers were left as they are."""
    assert train(past_the_counter)[1] == [step >= 7 for step in range(12)]


def test_the_size_of_the_first_change_is_an_estimate_and_of_later_ones_exact() -> None:
    monitor, seen = train(doubled)
    assert seen == [step in (2, 5) for step in range(12)]
    moved = [step.modules["0"]["moved"] for step in monitor.history]
    weight = monitor._model[0].weight.detach() / 4
    bias = monitor._model[0].bias.detach()
    both = float(torch.cat([weight.flatten(), bias]).norm())
    assert moved[2] == pytest.approx(float(weight.norm()) / both, rel=0.15)
    assert moved[5] == pytest.approx(
        float(weight.norm()) * 2 / float(torch.cat([2 * weight.flatten(), bias]).norm())
    )
    assert [each for place, each in enumerate(moved) if place not in (2, 5)] == [0.0] * 10


def test_weights_that_begin_to_require_gradient_are_copied() -> None:
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3), requires_grad=False)]
    movement = Movement(weights)
    movement.begin(same=False)
    movement.finish()
    assert list(movement.fall) == [0]
    weights[1].requires_grad_(True)
    movement.begin(same=False)
    with torch.no_grad():
        weights[1].add_(2.0)
    moves = movement.finish()
    assert list(movement.fall) == [0, 1]
    assert [float(each) for each in moves.updates] == pytest.approx([0.0, 12**0.5])


def test_what_changed_between_steps_did_not_move_in_one() -> None:
    weight = nn.Parameter(torch.ones(3), requires_grad=False)
    movement = Movement([weight])
    for _ in range(3):
        movement.begin(same=False)
        assert [float(each) for each in movement.finish().changed] == [0.0]
        with torch.no_grad():
            weight.add_(1.0)
