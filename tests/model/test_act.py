from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from etrm.config import HaltConfig
from etrm.model.act import Carry, explore, halts


def halted(steps: list[int], q_halt: list[float], max_steps: int = 4, exploration: float = 0.0) -> list[bool]:
    config = HaltConfig(max_steps=max_steps, exploration=exploration)
    generator = torch.Generator().manual_seed(0)
    minimum = explore(len(steps), config, generator)
    return halts(torch.tensor(steps), torch.tensor(q_halt), config, minimum).tolist()


# -- the halting rule ---------------------------------------------------------------------------------


def test_a_row_stops_at_the_maximum_of_steps() -> None:
    assert halted([1, 3, 4, 5], [-1.0] * 4) == [False, False, True, True]


def test_a_row_stops_where_its_logit_is_positive_and_not_at_zero() -> None:
    assert halted([1, 1, 1], [-0.1, 0.0, 0.1]) == [False, False, True]


def test_with_exploration_no_row_stops_at_its_first_step() -> None:
    assert not any(halted([1] * 200, [1.0] * 200, exploration=1.0))


def test_the_maximum_stops_a_row_whatever_exploration_asks() -> None:
    assert all(halted([4] * 200, [-1.0] * 200, exploration=1.0))


def test_exploration_never_stops_a_row() -> None:
    assert not any(halted([3] * 200, [-1.0] * 200, exploration=1.0))


def test_with_a_maximum_of_one_there_is_nothing_to_explore() -> None:
    assert all(halted([1] * 50, [-1.0] * 50, max_steps=1, exploration=1.0))


@pytest.mark.parametrize("exploration", [1.0, 0.3])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_the_minimum_is_uniform_from_two_to_the_maximum(steps: int, exploration: float) -> None:
    """A row that wants to stop may where it is not held, or where its minimum is reached."""
    rows, maximum = 20_000, 5
    expected = (1 - exploration) + exploration * (steps - 1) / (maximum - 1)
    found = sum(halted([steps] * rows, [1.0] * rows, maximum, exploration)) / rows
    assert found == pytest.approx(expected, abs=4 * (0.25 / rows) ** 0.5)


def test_exploration_is_drawn_anew_at_every_step() -> None:
    generator = torch.Generator().manual_seed(0)
    config = HaltConfig(max_steps=4, exploration=0.5)
    first, second = (explore(64, config, generator) for _ in range(2))
    assert first is not None
    assert second is not None
    assert not torch.equal(first, second)


def test_the_same_generator_draws_the_same() -> None:
    assert halted([2] * 64, [1.0] * 64, 4, 0.5) == halted([2] * 64, [1.0] * 64, 4, 0.5)


# -- the carry ----------------------------------------------------------------------------------------

H, L = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])


@pytest.fixture
def carry() -> Carry:
    """Two rows of three tokens; the second is done."""
    z = torch.arange(12.0).view(2, 3, 2) + 10
    return Carry(z, -z, torch.tensor([2, 3]), torch.tensor([False, True]), context=torch.ones(2, 1, 2))


def test_every_row_of_a_first_carry_begins() -> None:
    first = Carry.initial(3, 2, torch.device("cpu"))
    assert first.halted.tolist() == [True] * 3
    assert first.steps.tolist() == [0] * 3
    assert first.context is None
    begun = first.begin(4, H, L)
    assert torch.equal(begun.z_H, H.expand(3, 4, 2))
    assert torch.equal(begun.z_L, L.expand(3, 4, 2))


@pytest.mark.parametrize("length", [2, 3, 5])
def test_a_halted_row_begins_anew_and_another_keeps_its_state(carry: Carry, length: int) -> None:
    begun = carry.begin(length, H, L)
    kept = min(length, 3)
    for before, after, start in ((carry.z_H, begun.z_H, H), (carry.z_L, begun.z_L, L)):
        assert after.shape == (2, length, 2)
        assert torch.equal(after[0, :kept], before[0, :kept])
        assert torch.equal(after[1], start.expand(length, 2))
    assert begun.steps.tolist() == [2, 0]


def test_what_a_carry_stores_in_addition_to_its_states_is_left_alone(carry: Carry) -> None:
    begun = carry.begin(3, H, L)
    assert begun.halted is carry.halted
    assert begun.context is carry.context


def test_beginning_changes_no_tensor_of_the_carry_before(carry: Carry) -> None:
    copies: dict[str, Tensor] = {name: getattr(carry, name).clone() for name in ("z_H", "z_L", "steps")}
    replace(carry, halted=torch.ones(2, dtype=torch.bool)).begin(3, H, L)
    for name, before in copies.items():
        assert torch.equal(getattr(carry, name), before), name
