"""Wrong signs, a loss of one target and changed values are found; what looks alike and is meant is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from diagnostics import audit

SAMPLES = 16
CHECKED = ("LOSS004", "LOSS005", "LOSS006", "GRAD008")
Step = Callable[[nn.Module, Any], Tensor]


def found(step: Step, model: nn.Module | None = None, classes: int = 4) -> list[tuple[str, str]]:
    """Rule and code of the findings of the checks."""
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, classes))
    batches = [(torch.randn(SAMPLES, 6), torch.arange(SAMPLES) % classes) for _ in range(3)]
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    report = audit(model, step, batches, optimizer, steps=3)
    every = [each for one in report.findings for each in (one, *one.consequences)]
    return [(each.rule, each.code) for each in every if each.rule in CHECKED]


def picked(model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0]).log_softmax(1).gather(1, batch[1][:, None])[:, 0]


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradients[0], None


class Wrapped(nn.Module):
    """A body, and a head behind a function whose gradient is multiplied by a factor."""

    def __init__(self, body: float, head: float = 1.0) -> None:
        super().__init__()
        self.factors = (body, head)
        self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = _Scaled.apply(self.body(x).tanh(), self.factors[0])
        return _Scaled.apply(self.head(hidden), self.factors[1])


class Exponential(nn.Module):
    def __init__(self, unseen: bool) -> None:
        super().__init__()
        self.first, self.head, self.unseen = nn.Linear(6, 8), nn.Linear(8, 4), unseen

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).exp()
        if self.unseen:
            y.data.mul_(2.0)
        else:
            y = y * 2.0
        return self.head(y)


class Repeated(nn.Module):
    """A checkpoint of dropout, which runs again with the same random numbers or others."""

    def __init__(self, preserve: bool) -> None:
        super().__init__()
        self.first, self.head, self.preserve = nn.Linear(6, 32), nn.Linear(32, 4), preserve
        self.inner = nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        again = checkpoint(self.inner, self.first(x), use_reentrant=False, preserve_rng_state=self.preserve)
        return self.head(again)


def size_of(model: nn.Module) -> Tensor:
    return torch.stack([weight.abs().sum() for weight in model.parameters()]).sum()


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("step", "model", "expected"),
    [
        (lambda model, batch: -cross_entropy(model, batch), None, ("LOSS004", "loss-function-raised")),
        (lambda model, batch: picked(model, batch).mean(), None, ("LOSS004", "likelihood-lowered")),
        (cross_entropy, Wrapped(1.0, -1.0), ("LOSS004", "gradient-negated")),
        (
            lambda model, batch: (
                F.cross_entropy(model(batch[0]), batch[1], reduction="none") * (batch[1] == 0)
            ).mean(),
            None,
            ("LOSS005", "one-target"),
        ),
        (cross_entropy, Exponential(True), ("GRAD008", "changed-unseen")),
        (cross_entropy, Repeated(preserve=False), ("GRAD008", "recomputed-differently")),
        (
            lambda model, batch: cross_entropy(model, batch) + 0.1 * size_of(model).item(),
            None,
            ("LOSS006", "no-graph"),
        ),
        (
            lambda model, batch: 0.1 * torch.tensor(size_of(model).item()) + cross_entropy(model, batch),
            None,
            ("LOSS006", "no-graph"),
        ),
        (
            lambda model, batch: cross_entropy(model, batch) + 0.1 * size_of(model).detach(),
            None,
            ("LOSS006", "detached-term"),
        ),
    ],
    ids=["minus", "likelihood", "gradient", "mask", "changed", "repeated", "item", "number", "detached"],
)
def test_a_fault_is_named(step: Step, model: nn.Module | None, expected: tuple[str, str]) -> None:
    assert found(step, model) == [expected]


@pytest.mark.parametrize(
    ("step", "model"),
    [
        (cross_entropy, None),
        (lambda model, batch: -picked(model, batch).mean(), None),
        # rewards that are all negative: log-probabilities are lowered, each by its own reward
        (lambda model, batch: (picked(model, batch) * batch[0][:, 0].abs()).mean(), None),
        # a bonus of entropy beside the task
        (
            lambda model, batch: (
                cross_entropy(model, batch)
                + 0.01 * (F.softmax(model(batch[0]), 1) * F.log_softmax(model(batch[0]), 1)).sum(1).mean()
            ),
            None,
        ),
        # gradient reversal in front of a part of the model
        (cross_entropy, Wrapped(-1.0)),
        (lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], weight=torch.rand(4)), None),
        (cross_entropy, Exponential(False)),
        (cross_entropy, Repeated(preserve=True)),
        # a term that training sees, and a number that no weight changes
        (lambda model, batch: cross_entropy(model, batch) + 0.1 * size_of(model), None),
        (lambda model, batch: cross_entropy(model, batch) + batch[0].mean().item() + 1.0, None),
        # a sum for the log, which is not the loss
        (lambda model, batch: (size_of(model).item() + (loss := cross_entropy(model, batch)), loss)[1], None),
        (
            cross_entropy,
            nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 4)),
        ),
        # one class against the rest
        (lambda model, batch: F.cross_entropy(model(batch[0]), (batch[1] == 0).long()), None),
    ],
    ids=[
        "plain",
        "likelihood",
        "rewards",
        "entropy",
        "reversal",
        "weights",
        "exp",
        "checkpoint",
        "term",
        "constant",
        "log",
        "statistics",
        "binary",
    ],
)
def test_what_is_meant_is_not(step: Step, model: nn.Module | None) -> None:
    assert found(step, model) == []


def test_the_checks_leave_everything_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = [(torch.randn(SAMPLES, 6), torch.arange(SAMPLES) % 4) for _ in range(3)]
    drawn = torch.get_rng_state()
    audit(model, cross_entropy, batches, torch.optim.SGD(model.parameters(), 0.1), steps=3)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("graph", "expected"),
    [(False, [("LOSS006", "loss-untrained")]), (True, [])],
    ids=["both are the teacher's", "one is the student's"],
)
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_loss_of_two_numbers_without_graph(
    graph: bool, by_hand: bool, expected: list[tuple[str, str]]
) -> None:
    torch.manual_seed(1)
    teacher = nn.Linear(6, 4).requires_grad_(False)

    def step(model: nn.Module, batch: Any) -> Tensor:
        scores = model(batch[0])
        soft = (scores if graph else teacher(batch[0])).log_softmax(1)
        wanted = teacher(batch[0]).softmax(1)
        near = -(wanted * soft).sum(1).mean() if by_hand else F.kl_div(soft, wanted, reduction="batchmean")
        return F.cross_entropy(scores, batch[1]) + 2 * near

    assert found(step) == expected


def test_a_constant_of_the_batch_is_no_loss() -> None:
    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1]) + batch[0].square().mean()

    assert found(step) == []


@pytest.mark.parametrize(("sign", "codes"), [(1, {"maximised"}), (-1, set())])
def test_an_optimiser_that_maximises_wants_a_gain(sign: int, codes: set[str]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    batches = [(torch.randn(SAMPLES, 6), torch.arange(SAMPLES) % 4) for _ in range(3)]
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, maximize=True)

    def step(model: nn.Module, batch: Any) -> Tensor:
        return sign * F.cross_entropy(model(batch[0]), batch[1])

    report = audit(model, step, batches, optimizer, steps=3)
    assert {each.code for each in report.findings if each.rule == "LOSS004"} == codes


def curvature(model: nn.Module, batch: Any) -> Tensor:
    """The sum of second derivatives by the inputs has to be 1."""
    x = batch[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    return (second.sum(1) - 1).square().mean() + slope.square().mean()


@pytest.mark.parametrize(
    ("unit", "expected"), [(nn.ReLU(), [("LOSS006", "derivative-zero")]), (nn.Softplus(), [])]
)
def test_second_derivatives_of_piecewise_linear_layers(unit: nn.Module, expected: list[Any]) -> None:
    torch.manual_seed(0)
    assert found(curvature, nn.Sequential(nn.Linear(6, 16), unit, nn.Linear(16, 1))) == expected


def test_a_derivative_by_weights_may_be_zero() -> None:
    def inner(model: nn.Module, batch: Any) -> Tensor:
        bias = torch.zeros(4, requires_grad=True) * 1.0  # it shifts all classes alike
        loss = F.cross_entropy(model(batch[0]) + bias.sum(), batch[1])
        (step,) = torch.autograd.grad(loss, bias, create_graph=True)
        return F.cross_entropy(model(batch[0]) + (bias - step.detach().round()).sum(), batch[1])

    assert found(inner) == []
