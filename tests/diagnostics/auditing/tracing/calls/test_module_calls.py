"""What the calls of one step have in common is found, and what only looks alike is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diagnostics.auditing.tracing.calls.module_calls import ModuleCalls
from diagnostics.auditing.tracing.operation_trace import trace_operations

B = 16


class Pair(nn.Module):
    """Two networks of one class and shapes, and one of another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.other = nn.Linear(4, 1), nn.Linear(4, 1), nn.Linear(4, 2)


def calls_of(run: Callable[[Pair, Tensor], object]) -> ModuleCalls:
    torch.manual_seed(0)
    model, x = Pair(), torch.randn(B, 4)
    with trace_operations(model) as trace:
        run(model, x)
    return trace.calls


def again(x: Tensor) -> Tensor:
    """The same numbers, not made from the tensor."""
    return torch.tensor(x.tolist())


TWINS: dict[str, tuple[Callable[[Pair, Tensor], object], int]] = {
    "one module, equal data": (lambda m, x: (m.first(x), m.first(again(x))), B),
    "two of a class, equal data": (lambda m, x: (m.first(x), m.second(again(x))), B),
    "a part of the rows": (lambda m, x: (m.first(x), m.second(again(x)[: B - 4])), B - 4),
    "two of other shapes": (lambda m, x: (m.first(x), m.other(again(x))), 0),
    "the same tensor": (lambda m, x: (m.first(x), m.first(x)), 0),
    "a copy of it": (lambda m, x: (m.first(x), m.second(x.clone())), 0),
    "one of them picked by numbers before": (
        lambda m, x: (m.first(again(x)), m.second(x[torch.arange(B)])),
        0,
    ),
    "other data": (lambda m, x: (m.first(x), m.first(x + 1)), 0),
    "a backward pass between": (lambda m, x: (m.first(x).sum().backward(), m.first(again(x))), 0),
    "equal rows": (lambda m, x: (m.first(torch.ones(B, 4)), m.first(torch.ones(B, 4))), 0),
}


@pytest.mark.parametrize("name", TWINS)
def test_the_same_data_in_two_tensors(name: str) -> None:
    run, rows = TWINS[name]
    assert [each.rows for each in calls_of(run).twins] == ([rows] if rows else [])


class Opponents(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maker, self.judge = nn.Linear(4, 4), nn.Linear(4, 1)


@pytest.mark.parametrize(("sign", "agree"), [(1.0, True), (-1.0, False)])
def test_two_losses_that_move_an_answer_to_one_side(sign: float, agree: bool) -> None:
    torch.manual_seed(0)
    model = Opponents()
    with trace_operations(model) as trace:
        made = model.maker(torch.randn(B, 4))
        model.judge(made.detach()).mean().backward()
        (sign * model.judge(made).mean()).backward()
    assert [(each.judge, each.maker) for each in trace.calls.agreeing] == (
        [("judge", "maker")] if agree else []
    )


class Cell(nn.Module):
    """Returns an answer and its next state."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.join = nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = (self.read(x) + self.join(state)).tanh()
        return state.sum(1), state


class Decoder(nn.Module):
    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.cell, self.start, self.keeps = Cell(), nn.Linear(4, 3), keeps

    def forward(self, x: Tensor) -> Tensor:
        state, total = self.start(x), torch.zeros(len(x))
        for step in range(3):
            answer, after = self.cell(x + step, state)
            state, total = after if self.keeps else state, total + answer
        return total


@pytest.mark.parametrize("keeps", [True, False])
def test_a_state_that_nothing_reads(keeps: bool) -> None:
    model = Decoder(keeps)
    with trace_operations(model) as trace:
        model(torch.randn(B, 4)).sum().backward()
    found = [(each.module, each.calls, each.shape) for each in trace.calls.dropped]
    assert found == ([] if keeps else [("cell", 3, (B, 3))])


class Joining(nn.Module):
    def __init__(self, both: bool) -> None:
        super().__init__()
        self.both = both

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([x, skip if self.both else x], 1)


@pytest.mark.parametrize("both", [True, False])
def test_an_argument_that_nothing_reads(both: bool) -> None:
    model = nn.ModuleDict({"up": Joining(both), "one": nn.Linear(4, 3), "two": nn.Linear(4, 3)})
    x = torch.randn(B, 4)
    with trace_operations(model) as trace:
        model["up"](model["one"](x), model["two"](x)).sum().backward()
    found = [(each.module, each.place, each.shape) for each in trace.calls.unread]
    assert found == ([] if both else [("up", 1, (B, 3))])


def test_what_is_not_a_number_and_rows_that_are_equal() -> None:
    x = torch.randn(B, 4)
    x[2:4] = x[0]
    clean = calls_of(lambda model, _: model.first(x))
    (rows,) = clean.rows
    assert (len(rows.codes), len(rows.codes.unique()), rows.whole) == (B, B - 2, False)
    assert clean.broken == []
    assert calls_of(lambda model, _: model.first(x.log())).broken == ["first"]
    assert calls_of(lambda model, _: model.first(x.round())).rows[0].whole
