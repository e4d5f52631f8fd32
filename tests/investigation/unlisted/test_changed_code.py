"""Every change against values that are written here, and when, where and in which row a change acts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from etrm.investigation.unlisted import changed_code as runtime


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    runtime.begin()
    yield
    runtime.begin()


@dataclass(frozen=True)
class Pair:
    left: torch.Tensor
    right: int


class Named(NamedTuple):
    first: int
    second: int


GRID = [[1.0, 2.0], [3.0, 4.0]]
CASES: list[tuple[str, tuple[Any, ...], Any]] = [
    ("scale", (0.5,), [[0.5, 1.0], [1.5, 2.0]]),
    ("roll", (0,), [[3.0, 4.0], [1.0, 2.0]]),
    ("roll", (1,), [[2.0, 1.0], [4.0, 3.0]]),
    ("fill", (0,), [[0.0, 0.0], [0.0, 0.0]]),
    ("swap", (), [[3.0, 4.0], [1.0, 2.0]]),
    ("add", (1,), [[2.0, 3.0], [4.0, 5.0]]),
]


@pytest.mark.parametrize(("how", "options", "expected"), CASES)
@pytest.mark.parametrize("make", [torch.tensor, np.array])
def test_a_tensor_and_an_array_are_changed(
    how: str, options: tuple[Any, ...], expected: list[list[float]], make: Any
) -> None:
    changed = runtime.change(make(GRID), how, *options)
    assert changed.tolist() == expected
    assert type(changed) is type(make(GRID))


def test_other_values_are_changed() -> None:
    assert runtime.change(3, "add", -1) == 2
    assert runtime.change(None, "add", -1) is None
    assert runtime.change(True, "negate") is False
    assert runtime.change([1, 2, 3], "first") == [1]
    assert runtime.change((1, 2, 3), "last") == (3,)
    assert runtime.change((1, 2, 3), "roll", 0) == (3, 1, 2)
    assert runtime.change([1, 2], "backwards") == [2, 1]
    assert runtime.change("adamw", "constant", "adam_atan2") == "adam_atan2"
    assert runtime.change(torch.tensor([True, False]), "negate").tolist() == [False, True]
    assert runtime.change(torch.tensor([0.26, -1.04]), "round", 1).tolist() == pytest.approx([0.3, -1.0])
    assert not runtime.change(torch.ones(2, requires_grad=True), "detach").requires_grad


def test_a_part_of_a_value_is_changed() -> None:
    pair = Pair(torch.tensor([1.0]), 2)
    assert runtime.change(pair, "scale", 2.0, at="left") == Pair(torch.tensor([2.0]), 2)
    assert runtime.change((1, 2), "add", 1, at=1) == (1, 3)
    assert runtime.change(Named(1, 2), "add", 1, at=0) == Named(2, 2)


def test_a_row_is_changed_alone() -> None:
    assert runtime.change(torch.tensor(GRID), "scale", 10.0, row=1).tolist() == [[1.0, 2.0], [30.0, 40.0]]
    assert runtime.change(np.array(GRID), "fill", 0, row=0).tolist() == [[0.0, 0.0], [3.0, 4.0]]
    assert runtime.change(torch.tensor(GRID), "scale", 10.0, row=7).tolist() == GRID


def test_a_delay_returns_the_value_of_the_call_before() -> None:
    found = [runtime.change(torch.tensor([float(n)]), "delay").item() for n in range(4)]
    assert found == [0.0, 0.0, 1.0, 2.0]
    runtime.begin()
    value = torch.zeros(1)
    found = []
    for _ in range(3):
        value += 1
        found.append(runtime.change(value, "delay").item())
    assert found == [1.0, 1.0, 2.0], "in place, so the one before must be a copy"


def test_a_delay_keeps_a_value_of_another_shape() -> None:
    runtime.change(torch.zeros(2), "delay")
    assert runtime.change(torch.ones(3), "delay").tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("when", "steps"),
    [
        ("", [0, 1, 2, 3, 4, 5]),
        ("step>=4", [4, 5]),
        ("step<2", [0, 1]),
        ("step%3", [0, 3]),
        ("bucket=1", [1, 3, 5]),
        ("call>=5", [4, 5]),
        ("call%2", [1, 3, 5]),
    ],
)
def test_a_change_acts_at_some_steps_buckets_or_calls(when: str, steps: list[int]) -> None:
    found = []
    for step in range(6):
        runtime.enter(step, step % 2)
        if runtime.applies(when):
            found.append(step)
    assert found == steps


def test_outside_training_there_is_no_step() -> None:
    assert not runtime.applies("step>=0")
    runtime.enter(3, 0)
    assert runtime.applies("step>=0")
    runtime.begin()
    assert not runtime.applies("step<100")


def test_a_description_tells_what_can_act_on_a_value() -> None:
    assert runtime.describe(torch.ones(2, 3, requires_grad=True)) == {
        "kind": "floats",
        "shape": [2, 3],
        "grad": True,
    }
    kinds = {
        runtime.kind_of(value): value
        for value in (np.array([1]), torch.tensor([True]), True, 1, 1.0, [1], Pair(torch.ones(1), 1), "text")
    }
    assert list(kinds) == ["integers", "bools", "bool", "int", "float", "list", "object", "other"]
    parts = runtime.describe(Pair(torch.ones(4), 2))["parts"]
    assert parts["left"]["shape"] == [4]
    assert parts["right"] == {"kind": "int", "value": 2}
