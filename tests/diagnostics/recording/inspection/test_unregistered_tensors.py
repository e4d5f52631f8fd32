"""Tensors that learn outside the model are found, and nothing else is."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diagnostics import Finding, Monitor

WIDTH = 4


class Model(nn.Module):
    """Two layers; `between` acts on what the first hands to the second, `last` on what the second returns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.second = nn.Linear(WIDTH, WIDTH)
        self.between: Callable[[Tensor], Tensor] = lambda x: x
        self.last: Callable[[Tensor], Tensor] = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.between(self.first(x))))


def asks() -> Tensor:
    return torch.ones(WIDTH, requires_grad=True)


def found(
    model: nn.Module,
    held: tuple[Tensor, ...] = (),
    inputs: Callable[[], Tensor] = lambda: torch.randn(8, WIDTH),
    watch: list[str] | None = None,
    optimised: bool = True,
) -> list[Finding]:
    optimizer = torch.optim.SGD([*model.parameters(), *held], lr=0.01)
    monitor = Monitor(model, optimizer if optimised else None, watch=watch)
    for _ in range(8):
        with monitor.step(samples=8):
            model(inputs()).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    return [finding for finding in monitor.findings() if finding.rule == "REACH005"]


class Scaled(nn.Module):
    """A layer with a scale that is not registered."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.scale = asks()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale


def test_an_attribute_is_named_with_the_module_that_uses_it() -> None:
    model = Model()
    model.first = nn.Sequential(Scaled(), nn.Tanh())
    (finding,) = found(model)
    assert finding.module == "first"
    assert "(4)" in finding.message
    assert finding.code == "plain-tensor"
    assert [each.module for each in found(model, watch=["first", "first.0", "second"])] == ["first.0"]


@pytest.mark.parametrize("place", ["between", "last"])
def test_what_the_model_itself_uses_is_said_of_the_model(place: str) -> None:
    model, scale = Model(), asks()
    setattr(model, place, lambda x: x * scale)
    (finding,) = found(model)
    assert finding.module == ""


def test_layers_that_are_not_registered_are_told_from_tensors() -> None:
    model = Model()
    layer, scale = nn.Linear(WIDTH, WIDTH), asks()
    model.between = lambda x: layer(x) * scale
    causes = {finding.code: finding.evidence.value for finding in found(model)}
    assert causes == {"unregistered-layers": 2.0, "plain-tensor": 1.0}


def test_one_that_an_optimiser_holds_is_none() -> None:
    model, scale = Model(), asks()
    model.between = lambda x: x * scale
    assert found(model, held=(scale,)) == []


def test_without_optimisers_nothing_is_said() -> None:
    model, scale = Model(), asks()
    model.between = lambda x: x * scale
    assert found(model, optimised=False) == []


def test_inputs_and_what_is_made_anew_are_none() -> None:
    model = Model()
    x = torch.randn(8, WIDTH, requires_grad=True)
    assert found(model, inputs=lambda: x) == []
    model.between = lambda x: x * asks()
    assert found(model) == []


def test_what_leads_to_the_input_is_not_looked_at() -> None:
    prompt = asks()
    assert found(Model(), inputs=lambda: torch.randn(8, WIDTH) * prompt) == []


def test_a_layer_that_is_made_in_each_call() -> None:
    model = Model()
    model.between = lambda x: nn.Linear(WIDTH, WIDTH)(x)
    (finding,) = found(model)
    assert (finding.code, finding.evidence.value) == ("made-in-forward", 2.0)


def test_what_was_computed_from_a_parameter_is_none() -> None:
    model = Model()
    model.scale = nn.Parameter(torch.ones(WIDTH, dtype=torch.float64)).float()
    model.between = lambda x: x * model.scale
    (finding,) = found(model)
    assert finding.code == "not-a-parameter"
    assert "scale" in finding.cause


def test_a_copy_of_the_model_is_another_model() -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = Monitor(model, optimizer)
    teacher = copy.deepcopy(model)  # with the hooks
    for _ in range(8):
        with monitor.step(samples=8):
            x = torch.randn(8, WIDTH)
            (model(x) - teacher(x)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert "REACH005" not in {finding.rule for finding in monitor.findings()}


def test_only_the_first_steps_are_looked_at() -> None:
    model, scale = Model(), asks()
    calls = iter(range(100))
    model.between = lambda x: x * scale if next(calls) >= 2 else x
    assert found(model) == []


def test_a_frozen_tensor_is_none() -> None:
    model, scale = Model(), torch.ones(WIDTH)
    model.between = lambda x: x * scale
    assert found(model) == []


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_hide_none_and_are_none(reentrant: bool) -> None:
    model = Model()
    model.between = lambda x: checkpoint(model.second, x, use_reentrant=reentrant)
    assert found(model) == []
    model.first = nn.Sequential(Scaled(), nn.Tanh())
    assert [finding.module for finding in found(model)] == ["first"]
