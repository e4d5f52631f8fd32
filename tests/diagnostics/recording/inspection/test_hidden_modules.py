"""Modules in plain attributes are found wherever they are; what is registered, foreign or the model itself is not."""

from __future__ import annotations

import copy
import functools
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Monitor
from diagnostics.recording.inspection import hidden_modules
from diagnostics.recording.inspection.hidden_modules import find_hidden


def linear() -> nn.Linear:
    return nn.Linear(2, 2)


class Bank:
    """A plain class with a dictionary."""

    def __init__(self, **members: Any) -> None:
        self.members = members


@dataclass(slots=True)
class Slotted:
    member: Any


class Holder(nn.Module):
    """A model with something in a plain attribute."""

    def __init__(self, held: Any = None) -> None:
        super().__init__()
        self.core = linear()
        self.held = held

    def forward(self, x: Tensor) -> Tensor:
        return self.core(x)


FOUND: dict[str, tuple[Callable[[], Any], str]] = {
    "list": (lambda: [1, linear()], "held[1]"),
    "tuple": (lambda: (linear(),), "held[0]"),
    "deque": (lambda: deque([linear()]), "held[0]"),
    "dictionary": (lambda: {"a": {"b": linear()}}, "held['a']['b']"),
    "object": (lambda: Bank(red=linear()), "held.members['red']"),
    "slots": (lambda: Slotted(linear()), "held.member"),
    "partial": (lambda: functools.partial(max, key=linear()), "held()"),
    "bound method": (lambda: linear().forward, "held"),
    "parameter": (lambda: [nn.Parameter(torch.ones(2))], "held[0]"),
    "module list in a list": (lambda: [nn.ModuleList([linear(), linear()])], "held[0]"),
}


@pytest.mark.parametrize("name", FOUND)
def test_it_is_found_with_its_path(name: str) -> None:
    make, path = FOUND[name]
    assert [hidden.path for hidden in find_hidden(Holder(make()))] == [path]
    inner = nn.Sequential(nn.Identity(), Holder(make()))
    assert [hidden.path for hidden in find_hidden(inner)] == [f"1.{path}"]


LEFT_OUT: dict[str, Callable[[Holder], Any]] = {
    "nothing": lambda model: None,
    "registered": lambda model: [model.core, model.core.weight, {"again": model.core}],
    "the model itself": lambda model: [model],
    "a wrapper of the model": lambda model: [nn.Sequential(model, linear())],
    "a trainer": lambda model: Bank(model=model, other=Bank(deep=1)),
    "weak reference": lambda model: [weakref.ref(linear())],
    "no weights": lambda model: [nn.ReLU(), nn.CrossEntropyLoss(), nn.Sequential()],
    "other order of registered ones": lambda model: [nn.Sequential(nn.Tanh(), model.core)],
    "optimiser": lambda model: torch.optim.Adam(model.parameters()),
    "functorch's base": lambda model: [copy.deepcopy(model.core).to("meta")],
    "class and function": lambda model: [nn.Linear, linear],
    "plain tensors": lambda model: [torch.ones(2), torch.ones(2, requires_grad=True)],
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_not_hidden_is_left_out(name: str) -> None:
    model = Holder()
    model.held = LEFT_OUT[name](model)
    assert find_hidden(model) == []


def test_a_holder_of_the_model_ends_the_walk() -> None:
    model = Holder()
    model.held = Bank()
    model.held.model = model
    model.held.callback = Bank(average=linear())
    assert find_hidden(model) == []


def test_cycles_and_huge_containers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    loop: list[Any] = [{}]
    loop[0]["loop"] = loop
    loop.append(linear())
    assert [hidden.path for hidden in find_hidden(Holder(loop))] == ["held[1]"]
    deep: Any = linear()
    for _ in range(hidden_modules.DEEPEST + 1):
        deep = [deep]
    assert find_hidden(Holder(deep)) == []
    monkeypatch.setattr(hidden_modules, "MOST_OBJECTS", 50)
    assert find_hidden(Holder([*range(100), linear()])) == []
    assert find_hidden(Holder([0.0] * 10_000_000)) == []


def test_no_code_of_the_user_runs() -> None:
    class Trap:
        @property
        def module(self) -> nn.Module:
            raise AssertionError

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

        def __iter__(self) -> Any:
            raise AssertionError

    assert find_hidden(Holder(Trap())) == []


def test_layers_that_have_no_weights_yet_are_found_and_are_a_copy_of_none() -> None:
    class Model(Holder):
        def __init__(self, held: Any) -> None:
            super().__init__(held)
            self.head = nn.LazyLinear(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.core(x)) + self.held[0](x)

    model = Model([nn.LazyLinear(3)])
    monitor = Monitor(model)
    for _ in range(2):
        with monitor.step(samples=4):
            model(torch.ones(4, 2)).sum().backward()
    (found,) = monitor.last.hidden
    assert (found.path, found.parameters, found.calls, found.copy_of) == ("held[0]", 2, 1, "")


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64, torch.complex64])
def test_a_copy_in_another_precision_is_a_copy_and_other_weights_are_none(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    model, other = nn.Sequential(nn.Linear(8, 8, dtype=kind)), nn.Linear(8, 8, dtype=kind)
    copied = copy.deepcopy(model[0])
    copied = copied if kind.is_complex else copied.double()
    assert hidden_modules._twin(model, copied) == "0"
    assert hidden_modules._twin(model, other) == hidden_modules._twin(model, nn.Linear(8, 4)) == ""


def test_calls_weights_and_optimisers_are_counted() -> None:
    teacher, used = linear(), linear()

    class Model(Holder):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                used(x)
            return self.core(x) + used(x) + teacher(x)

    model = Model({"teacher": teacher, "used": used, "spare": nn.Linear(3, 3)})
    teacher.load_state_dict(model.core.state_dict())
    teacher.requires_grad_(False)
    with torch.no_grad():  # the same shapes as the core, and other weights
        used.weight.copy_(-model.core.weight)
    optimizer = torch.optim.SGD([*model.parameters(), used.weight], 0.1)
    monitor = Monitor(model, optimizer)
    for _ in range(2):
        with monitor.step(samples=4):
            model(torch.ones(4, 2)).sum().backward()
            optimizer.step()
    found = {hidden.path: hidden for hidden in monitor.last.hidden}
    counts = {
        path: (
            one.parameters,
            one.trainable,
            one.in_optimizers,
            one.calls,
            one.calls_grad_enabled,
            one.copy_of,
        )
        for path, one in found.items()
    }
    assert counts == {
        "held['teacher']": (2, 0, 0, 1, 1, "core"),
        "held['used']": (2, 2, 1, 2, 1, ""),
        "held['spare']": (2, 2, 0, 0, 0, ""),
    }
    assert {hidden.owner for hidden in found.values()} == {""}
    monitor.detach()
    assert not used._forward_hooks
    with monitor, monitor.step(samples=4):
        model(torch.ones(4, 2)).sum().backward()
    assert [hidden.calls for hidden in monitor.last.hidden] == [1, 2, 0]
