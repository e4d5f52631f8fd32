"""State that is kept, dropout in evaluation, and layers that are one linear map."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import Severity, audit

X = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))


def found(
    model: nn.Module, rule: str, loss: Callable[[Tensor], Tensor] | None = None
) -> list[tuple[str, Severity]]:
    """Modules and severities of the findings of a rule; by default the loss has one class per sample."""

    def step(model: nn.Module, x: Tensor) -> Tensor:
        return loss(model(x)) if loss else F.cross_entropy(model(x), torch.arange(len(x)) % 3)

    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(8, 5, generator=generator) for _ in range(4)]
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    report = audit(model, step, batches, optimizer, steps=4)
    return [(each.module, each.severity) for each in report.findings if each.rule == rule]


class Forward(nn.Module):
    """Two layers of eight units with something between them."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor], outputs: int = 3, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(5, width), nn.Linear(width, outputs)
        self.between = between
        self.state: Any = torch.zeros(8, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self, self.first(x)))


def keep(model: Any, x: Tensor) -> Tensor:
    state = model.state
    model.state = (x + 0.5 * state).detach()
    return (x + 0.5 * state).tanh()


def note_only(model: Any, x: Tensor) -> Tensor:
    model.state = x.detach()  # for a plot
    return x.tanh()


def in_a_buffer(model: Any, x: Tensor) -> Tensor:
    if "queue" not in dict(model.named_buffers()):
        model.register_buffer("queue", torch.zeros(8, 8))
    mixed = (x + 0.5 * model.queue).tanh()
    model.queue = x.detach()
    return mixed


def test_state_of_the_call_before_is_named_where_samples_are_judged_alone() -> None:
    assert found(Forward(keep), "STATE001") == [("", Severity.WARNING)]
    assert found(Forward(keep), "STATE001", lambda y: y.square().mean()) == [("", Severity.NOTE)]


@pytest.mark.parametrize("between", [note_only, in_a_buffer, lambda model, x: x.tanh()])
def test_what_is_noted_or_registered_is_no_state(between: Callable[[Any, Tensor], Tensor]) -> None:
    assert found(Forward(between), "STATE001") == []


def attend(model: Any, x: Tensor, rate: float) -> Tensor:
    heads = x.view(8, 1, 2, 4)
    return F.scaled_dot_product_attention(heads, heads, heads, dropout_p=rate).reshape(8, 8)


@pytest.mark.parametrize(
    ("between", "fires"),
    [
        (lambda model, x: F.dropout(x.relu(), 0.4), True),
        (lambda model, x: F.dropout(x.relu(), p=0.4, training=True), True),
        (lambda model, x: attend(model, x, 0.2), True),
        (lambda model, x: F.dropout(x.relu(), 0.4, training=model.training), False),
        (lambda model, x: F.dropout(x.relu(), 0.0), False),
        (lambda model, x: attend(model, x, 0.2 if model.training else 0.0), False),
        (lambda model, x: nn.Dropout(0.4).train(model.training)(x.relu()), False),
        (lambda model, x: x.relu() + 0.1 * torch.randn_like(x), False),
    ],
)
def test_dropout_that_is_on_in_evaluation(between: Callable[[Any, Tensor], Tensor], fires: bool) -> None:
    assert found(Forward(between), "MODE004") == ([("", Severity.WARNING)] if fires else [])


class Adapted(nn.Module):
    """A layer, and a low-rank change of it."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = nn.Linear(5, 3), nn.Linear(5, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def stack(*widths: int, between: Callable[[], nn.Module] = nn.Identity) -> nn.Module:
    layers = [each for pair in pairwise(widths) for each in (nn.Linear(*pair), between())]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize(
    ("model", "fires"),
    [
        (lambda: stack(5, 8, 8, 3), True),
        (lambda: stack(5, 8, 8, 3, between=lambda: nn.Dropout(0.2)), True),
        (lambda: stack(5, 8, 8, 3, between=nn.Tanh), False),
        (lambda: stack(5, 8, 8, 3, between=lambda: nn.LayerNorm(8)), False),
        (Adapted, False),  # the width between is a bottleneck
        (lambda: stack(5, 8, 3), False),  # an encoder and a decoder
        (lambda: stack(5, 3), False),
    ],
)
def test_layers_without_an_activation_between(model: Callable[[], nn.Module], fires: bool) -> None:
    def loss(output: Tensor) -> Tensor:
        return output.square().mean()

    torch.manual_seed(0)
    assert found(model(), "LINEAR001", loss) == ([("", Severity.WARNING)] if fires else [])


def test_the_inputs_are_what_they_were() -> None:
    model, x = Forward(lambda model, x: x), X.clone()
    audit(model, lambda model, x: model(x).square().mean(), [x, x + 1], steps=2)
    assert torch.equal(x, X)
