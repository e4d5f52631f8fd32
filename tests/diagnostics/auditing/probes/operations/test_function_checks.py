"""Own functions: a wrong derivative is named, a right, scaled, reversed or straight-through one is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import audit

Backward = Callable[[Tensor, Tensor], Tensor]
"""(input, gradient) -> the gradient of the input."""


def function(forward: Callable[[Tensor], Tensor], backward: Backward, later: bool) -> Any:
    """An own function, whose context is filled in its forward pass or later."""

    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        return backward(ctx.saved_tensors[0], upstream)

    def keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def compute(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return forward(x)

    own = {"backward": staticmethod(gradient)}
    own |= (
        {"forward": staticmethod(forward), "setup_context": staticmethod(keep)}
        if later
        else {"forward": staticmethod(compute)}
    )
    return type("Own", (torch.autograd.Function,), own)


class Net(nn.Module):
    def __init__(self, own: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.own = nn.Linear(6, 16), nn.Linear(16, 1), own.apply

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.own(self.body(x)))


CUBE = (lambda x: x**3 + x, lambda x, g: g * (3 * x**2 + 1))


@pytest.mark.parametrize(
    ("forward", "backward", "codes"),
    [
        (*CUBE, set()),
        (CUBE[0], lambda x, g: 3 * x**2 + 1, {"upstream-ignored"}),
        (CUBE[0], lambda x, g: g * 3 * x**2, {"not-the-slope"}),
        (lambda x: x.tanh(), lambda x, g: g * (1 - x**2), {"not-the-slope"}),  # x is taken for the result
        (CUBE[0], lambda x, g: -0.5 * g * (3 * x**2 + 1), set()),
        (lambda x: x.clone(), lambda x, g: g.clamp(-0.6, 0.6), set()),
        (lambda x: x.round(), lambda x, g: g, set()),
        (lambda x: x.sign(), lambda x, g: g * (x.abs() < 1), set()),
        (lambda x: x.relu(), lambda x, g: g * torch.where(x > 0, 1.0, 0.1), set()),
        (lambda x: x.tanh(), lambda x, g: g, set()),
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_a_backward_pass_belongs_to_its_forward_pass(
    forward: Callable[[Tensor], Tensor], backward: Backward, codes: set[str], later: bool
) -> None:
    own = function(forward, backward, later)
    methods = dict(vars(own))
    model = Net(own)
    batches = [(x, x[:, :1].sin()) for x in torch.randn(4, 12, 6)]
    report = audit(model, lambda model, batch: (model(batch[0]) - batch[1]).square().mean(), batches, steps=6)
    assert {each.code for each in report.findings if each.rule == "GRAD009"} == codes
    assert {name: vars(own)[name] for name in ("forward", "backward")} == {
        name: methods[name] for name in ("forward", "backward")
    }


class Matrix(torch.autograd.Function):
    """A matrix product with a cost that is passed on as the number it is, as balancing losses are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, cost: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return upstream @ weight, upstream.T @ x, torch.ones(())


class OfOnes(Matrix):
    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return upstream @ weight, torch.ones_like(upstream).T @ x, torch.ones(())


@pytest.mark.parametrize(("own", "codes"), [(Matrix, set()), (OfOnes, {"upstream-ignored"})])
def test_each_argument_is_judged_but_a_single_number(own: Any, codes: set[str]) -> None:
    model = Net(type("Plain", (), {"apply": lambda x: x}))

    def step(model: nn.Module, batch: Any) -> Tensor:
        body = model.body(batch)
        return own.apply(body, model.head.weight, body.square().mean()).square().mean()

    findings = audit(model, step, list(torch.randn(4, 12, 6)), steps=6).findings
    assert {each.code for each in findings if each.rule == "GRAD009"} == codes


class Once(torch.autograd.Function):
    """Lets go of what it saved, and writes to the gradient of its weight, as reversible layers do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: nn.Parameter) -> Tensor:
        ctx.kept, ctx.weight = x, weight
        return x * weight

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        weight = ctx.weight
        weight.grad = (weight.grad if weight.grad is not None else 0) + (upstream * ctx.kept).sum()
        del ctx.kept
        return upstream * weight, None


def test_a_function_that_cannot_run_twice_is_left_alone() -> None:
    model = Net(type("Plain", (), {"apply": lambda x: x}))
    model.scale = nn.Parameter(torch.ones(()))
    step = lambda model, batch: model.head(Once.apply(model.body(batch), model.scale)).square().mean()  # noqa: E731
    report = audit(model, step, list(torch.randn(4, 12, 6)), steps=6, ignore=["REACH001"])
    assert report.clean
    assert model.scale.grad is None
