"""The module that is named is the one in which the fault was planted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Origin, first_nonfinite


class NanBackward(torch.autograd.Function):
    """The identity, with a gradient that is NaN in row 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.clone()
        gradient[1] = float("nan")
        return gradient


class Block(nn.Module):
    """A residual block: the output of `inner` is used by an operation of the block's own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.scale = 1.0
        self.fault = ""

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "before":
            x = x * float("inf")
        if self.fault == "backward before":
            x = NanBackward.apply(x)
        y = self.inner(x)
        if self.fault == "backward after":
            y = NanBackward.apply(y)
        y = x + self.scale * y
        return y / 0 if self.fault == "after" else y


class Stack(nn.Module):
    """Three blocks and a head; `blocks.2` is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        for number in (0, 1, 2, 2):
            x = self.blocks[number](x)
        return self.head(x)


def origin_of(model: nn.Module, x: Tensor) -> Origin | None:
    with first_nonfinite(model) as found:
        model(x).sum().backward()
    return found.origin


@pytest.fixture
def stack() -> Stack:
    torch.manual_seed(0)
    return Stack()


def test_a_finite_step_has_no_origin_and_is_not_changed(stack: Stack) -> None:
    x = torch.randn(3, 4)
    stack(x).sum().backward()
    before = [p.grad.clone() for p in stack.parameters()]
    stack.zero_grad()
    assert origin_of(stack, x) is None
    assert all(torch.equal(a, p.grad) for a, p in zip(before, stack.parameters(), strict=True))
    hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in stack.modules()]
    assert not any(forward or pre for forward, pre in hooks)
    assert not any(p._backward_hooks for p in stack.parameters())


@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize(
    ("fault", "phase", "place", "name"),
    [
        ("before", "forward", "handed-on", "blocks.{}.inner"),
        ("after", "forward", "output", ""),
        ("backward before", "backward", "input-gradient", ""),
        ("backward after", "backward", "output-gradient", "blocks.{}.inner.2"),
    ],
)
def test_an_operation_of_a_block_is_found_in_that_block(
    stack: Stack, block: int, fault: str, phase: str, place: str, name: str
) -> None:
    stack.blocks[block].fault = fault
    found = origin_of(stack, torch.randn(3, 4, requires_grad=True))
    assert found is not None
    assert (found.phase, found.module) == (phase, f"blocks.{block}")
    assert (found.place, found.name) == (place, name.format(block))
    assert found.name in found.what
    assert found.rows == ((1,) if phase == "backward" else (0, 1, 2))
    assert str(found).startswith(f"blocks.{block}: ")


@pytest.mark.parametrize("name", ["blocks.0.inner.0.bias", "blocks.2.inner.2.weight", "head.weight"])
def test_a_parameter_that_was_bad_before_the_step_is_named(stack: Stack, name: str) -> None:
    stack.get_parameter(name).data.view(-1)[0] = float("nan")
    found = origin_of(stack, torch.randn(3, 4))
    owner, _, own = name.rpartition(".")
    assert found is not None
    assert (found.phase, found.module, found.elements) == ("parameters", owner, 1)
    assert (found.place, found.name) == ("value", own)


def test_a_bad_input_is_the_models_own(stack: Stack) -> None:
    x = torch.randn(3, 4)
    x[2, 1] = float("-inf")
    assert origin_of(stack, x) == Origin("forward", "", "input", "", (3, 4), 1, (2,))


def test_a_gradient_that_the_loss_spoils_comes_from_outside(stack: Stack) -> None:
    with first_nonfinite(stack) as found:
        (stack(torch.randn(3, 4)) * 0).sqrt().sum().backward()
    assert found.origin is not None
    assert found.origin.phase == "backward"
    assert found.origin.module == ""
    assert (found.origin.place, found.origin.name) == ("output-gradient", "head")


def test_the_gradient_of_a_parameter_alone_is_the_modules_own(stack: Stack) -> None:
    linear = stack.blocks[1].inner[0]
    weight = linear.weight

    def forward(x: Tensor) -> Tensor:
        return x @ (linear.weight + 0 * torch.sqrt(weight - weight)).T

    linear.forward = forward
    found = origin_of(stack, torch.randn(3, 4))
    assert found is not None
    assert (found.phase, found.module) == ("backward", "blocks.1.inner.0")
    assert (found.place, found.name) == ("parameter-gradient", "weight")


def test_a_sparse_gradient_and_integers_are_looked_at_as_they_are() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    with first_nonfinite(table) as found:
        (table(torch.tensor([1, 1, 3])) * torch.tensor([[1.0], [1.0], [float("inf")]])).sum().backward()
    assert found.origin is not None
    assert found.origin.phase == "backward"


def test_calls_without_gradients_are_watched_too(stack: Stack) -> None:
    stack.blocks[2].fault = "after"
    with torch.no_grad(), first_nonfinite(stack) as found:
        stack(torch.randn(3, 4))
    assert found.origin is not None
    assert found.origin.module == "blocks.2"


class Masked(nn.Module):
    """Attention with a mask of 0 and -inf, kept as a buffer and passed to a module; its output is then spoilt."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.attention, self.by = nn.MultiheadAttention(4, 1, batch_first=True), by

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attention(x, x, x, attn_mask=self.mask, need_weights=False)
        return mixed * self.by


@pytest.mark.parametrize("by", [1.0, torch.inf])
def test_a_mask_of_zero_and_minus_infinity_is_no_fault(by: float) -> None:
    model = Masked(by)
    with first_nonfinite(model) as found:
        model(torch.randn(2, 3, 4)).sum().backward()
    place = found.origin and (found.origin.module, found.origin.place)
    assert place == (None if by == 1.0 else ("", "output"))


def test_minus_infinity_that_has_a_gradient_is_one() -> None:
    """The logarithm of zero is no mask, although it looks like one."""
    model = nn.Sequential(nn.Softmax(-1), nn.Linear(2, 2))
    model[0].register_forward_hook(lambda module, args, output: output.round().log())
    with first_nonfinite(model) as found:
        model(torch.tensor([[90.0, 0.0]], requires_grad=True))
    assert found.origin is not None
    assert (found.origin.module, found.origin.elements) == ("0", 1)
