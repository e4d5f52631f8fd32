"""A repeated step names the operation that made the first number that is not finite, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diagnostics import audit
from diagnostics.auditing.replay import StepStart, find_broken, trace_step
from diagnostics.auditing.tracing.operation_trace import trace_operations

Step = Callable[[nn.Module, Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, own: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(3, 4)
        self.head = Head(own)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


class Head(nn.Module):
    def __init__(self, own: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.own = own
        self.out = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.own(x))


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def whole(model: nn.Module, batch: Tensor) -> float:
    value = loss(model, batch)
    value.backward()
    return value.item()


CASES = {
    "log": (lambda x: (x - x).log() * 0, "forward", "log", "head"),
    "div": (lambda x: x / (x - x), "forward", "div", "head"),
    "sqrt": (lambda x: torch.where(x > 9, (x * 0).sqrt(), x), "backward", "sqrt", ""),
    "pow": (lambda x: torch.where(x > 9, (x * 0).pow(0.5), x), "backward", "pow", ""),
}


@pytest.mark.parametrize("step", [loss, whole])
@pytest.mark.parametrize("name", CASES)
def test_the_first_operation_that_is_not_finite(name: str, step: Step) -> None:
    own, phase, operation, module = CASES[name]
    model, batch = Net(own), torch.randn(5, 3)
    start = StepStart(model, batch, 0)
    with torch.no_grad():
        model.encoder.weight.fill_(torch.nan)  # the repetition begins from what the step began with
    after = [weight.clone() for weight in model.parameters()]
    broken = find_broken(model, step, start, [])
    assert broken is not None
    assert (broken.phase, broken.operation.name, broken.operation.module) == (phase, operation, module)
    assert broken.operation.place.startswith("test_replay.py:")
    kept = zip(after, model.parameters(), strict=True)
    assert all(torch.equal(one.nan_to_num(7.0), now.nan_to_num(7.0)) for one, now in kept)
    assert all(weight.grad is None for weight in model.parameters())


def test_a_finite_step_has_none() -> None:
    model = Net(torch.tanh)
    assert find_broken(model, loss, StepStart(model, torch.randn(5, 3), 0), []) is None


def test_a_mask_of_infinities_is_no_fault() -> None:
    model = Net(lambda x: x.masked_fill(torch.eye(5, 4, dtype=torch.bool), -torch.inf).softmax(1))
    with trace_operations(model) as trace:
        loss(model, torch.randn(5, 3))
    assert trace.nonfinite.operation is None


def test_a_step_that_cannot_run_under_the_recording_gives_nothing() -> None:
    def fails(model: nn.Module, batch: Tensor) -> Tensor:
        raise RuntimeError("not under a mode")

    assert trace_step(Net(torch.tanh), fails, torch.randn(5, 3), []) is None


def test_random_numbers_are_those_of_the_step() -> None:
    seen: list[Tensor] = []

    def step(model: nn.Module, batch: Tensor) -> Tensor:
        seen.append(torch.rand(2))
        return loss(model, batch) / (seen[-1].sum() * 0)

    model = Net(torch.tanh)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    report = audit(model, step, [torch.randn(5, 3)], optimizer, steps=1)
    (found,) = [each for each in report.findings if each.rule == "REACH003"]
    assert found.code == "overflow-in-operation"
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])
