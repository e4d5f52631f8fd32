"""What the toolkit cannot measure is absent with a reason; training continues, unchanged."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Absent, InvalidType, Monitor, Severity, audit
from diagnostics.recording.calls.capture import Capture
from diagnostics.recording.inspection.hidden_modules import HiddenModules
from diagnostics.recording.inspection.unregistered_tensors import Strangers
from tests.errors import raises_code

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*prototype stage"),
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings(
        "ignore:The .grad attribute of a Tensor"
    ),  # of the compiler, as it reads our hooks
]

Made = tuple[nn.Module, Any, int, Callable[[], None]]
"""A model, its optimiser, the samples of a step, and a step."""


def net(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(layers or (nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))))


def stepping(model: nn.Module, loss: Callable[[], Tensor]) -> Made:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, 6, step


def nested(layout: torch.layout) -> Made:
    model = net(nn.Linear(4, 8), nn.Linear(8, 3))

    def loss() -> Tensor:
        rows = [torch.randn(n, 4) for n in (3, 5, 4, 2, 1, 2)]
        return (
            torch.nested.to_padded_tensor(model(torch.nested.nested_tensor(rows, layout=layout)), 0.0)
            .pow(2)
            .mean()
        )

    return stepping(model, loss)


def per_sample() -> Made:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step() -> None:
        weights = {name: weight.detach() for name, weight in model.named_parameters()}

        def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(model, weights, (x[None],)).pow(2).mean()

        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, torch.randn(6, 4))
        for name, weight in model.named_parameters():
            weight.grad = each[name].mean(0)
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, 6, step


def on_meta() -> Made:
    with torch.device("meta"):
        model = net()
    return stepping(model, lambda: model(torch.randn(6, 4, device="meta")).pow(2).mean())


def scripted() -> Made:
    model = net(torch.jit.script(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3))
    return stepping(model, lambda: model(torch.randn(6, 4)).pow(2).mean())


def scripted_whole() -> Made:
    model = torch.jit.script(net())
    return stepping(model, lambda: model(torch.randn(6, 4)).pow(2).mean())


def lazy() -> Made:
    model = net(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    return stepping(model, lambda: model(torch.randn(6, 4)).pow(2).mean())


def with_thread() -> Made:
    """Another thread uses the model for something else at the same time."""
    model = net()

    def loss() -> Tensor:
        other = threading.Thread(target=lambda: model(torch.zeros(2, 4)).detach())
        other.start()
        other.join()
        return model(torch.randn(6, 4)).pow(2).mean()

    return stepping(model, loss)


MODELS = {
    "jagged": lambda: nested(torch.jagged),
    "strided": lambda: nested(torch.strided),
    "vmap": per_sample,
    "meta": on_meta,
    "script": scripted,
    "lazy": lazy,
    "thread": with_thread,
}


WATCHED = {**MODELS, "whole script": scripted_whole}


@pytest.mark.parametrize("name", WATCHED)
def test_it_is_watched_quietly_and_trains_as_without(name: str) -> None:
    weights = []
    for watched in (True, False):
        torch.manual_seed(0)
        model, optimizer, samples, step = WATCHED[name]()
        torch.manual_seed(1)
        monitor = Monitor(model, optimizer) if watched else None
        for _ in range(8):
            if monitor is None:
                step()
            else:
                with monitor.step(samples=samples):
                    step()
        if monitor is not None:
            assert len(monitor.history) == 8
            assert [each for each in monitor.findings() if each.severity > Severity.NOTE] == []
        weights.append([weight.detach().clone() for weight in model.parameters()])
    assert all(one.is_meta or torch.equal(one, other) for one, other in zip(*weights, strict=True))


@pytest.mark.parametrize(
    ("name", "code"),
    [("vmap", "function-transform"), ("meta", "no-data"), ("script", "scripted"), ("strided", "nested")],
)
def test_coverage_is_absent_with_a_reason(name: str, code: str) -> None:
    model, optimizer, samples, step = MODELS[name]()
    monitor = Monitor(model, optimizer)
    with monitor.step(samples=samples):
        step()
    coverage = monitor.coverage("0")
    assert isinstance(coverage, Absent)
    assert coverage.code == code


def test_lazy_parameters_are_watched_from_the_step_after_they_exist() -> None:
    model, optimizer, samples, step = lazy()
    monitor = Monitor(model, optimizer)
    for _ in range(2):
        with monitor.step(samples=samples):
            step()
    assert set(monitor.last.parameters) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert all(
        each.reach.kind == "all" or each.reach.kind == "some" for each in monitor.last.parameters.values()
    )


class Packed(nn.Module):
    """Sequences of different lengths, which torch sorts."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = nn.GRU(4, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.reader(packed)[1][-1])


def packed() -> Made:
    model = Packed()
    return stepping(model, lambda: model(torch.randn(6, 5, 4), torch.randint(1, 6, (6,))).pow(2).mean())


def compiled() -> Made:
    model = net()
    run = torch.compile(model, backend="eager")
    return stepping(model, lambda: run(torch.randn(6, 4)).pow(2).mean())


@pytest.mark.parametrize("name", [*MODELS, "packed", pytest.param("compiled", marks=pytest.mark.slow)])
def test_an_audit_is_quiet_too(name: str) -> None:
    torch.manual_seed(0)
    makes = {**MODELS, "packed": packed, "compiled": compiled}
    model, optimizer, samples, step = makes[name]()
    report = audit(model, lambda model, batch: step(), list(torch.zeros(4, samples, 1)), optimizer, steps=6)
    assert [each for each in report.findings if each.severity > Severity.NOTE] == []


def test_a_step_that_cannot_be_measured_is_a_note_and_training_continues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Capture, "close", raising)
    model, optimizer, samples, step = stepping(one := net(), lambda: one(torch.randn(6, 4)).pow(2).mean())
    before = model[0].weight.detach().clone()
    monitor = Monitor(model, optimizer)
    for _ in range(2):
        with monitor.step(samples=samples):
            step()
    assert not torch.equal(before, model[0].weight)
    (note,) = [each for each in monitor.findings() if each.code == "step-lost"]
    assert "no kernel for this" in note.cause
    assert (note.evidence.first_step, note.evidence.last_step) == (0, 1)


@pytest.mark.parametrize("part", [(HiddenModules, "begin"), (Strangers, "note")])
def test_a_step_whose_recording_fails_at_its_start_or_in_a_call_is_a_note_too(
    monkeypatch: pytest.MonkeyPatch, part: tuple[type, str]
) -> None:
    model, optimizer, samples, step = stepping(one := net(), lambda: one(torch.randn(6, 4)).pow(2).mean())
    monitor = Monitor(model, optimizer)
    with monkeypatch.context() as failing:
        failing.setattr(*part, raising)
        with monitor.step(samples=samples):
            step()
    for _ in range(2):
        with monitor.step(samples=samples):
            step()
    assert len(monitor.history) == 2
    (note,) = [each for each in monitor.findings() if each.code == "step-lost"]
    assert (note.evidence.first_step, note.evidence.last_step) == (0, 0)


def raising(*given: Any) -> None:
    raise RuntimeError("no kernel for this\nsecond line")


def test_exceptions_of_the_step_are_the_users_own() -> None:
    model = net()
    monitor = Monitor(model)
    with pytest.raises(ZeroDivisionError) as caught, monitor.step(samples=6):
        raise ZeroDivisionError
    assert caught.value.__context__ is None


class Prompt(nn.Module):
    """Returns its parameter, which outlives the graph of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.ones(6, 4))

    def forward(self) -> Tensor:
        return self.prompt


def test_hooks_on_a_returned_parameter_end_with_the_step() -> None:
    prompt = Prompt()
    head = nn.Linear(4, 3)
    model = nn.ModuleDict({"prompt": prompt, "head": head})
    monitor = Monitor(model)
    counts = []
    for number in range(4):
        with contextlib.suppress(ZeroDivisionError), monitor.step(samples=6):
            head(prompt()).sum().backward()
            assert number != 2 or 1 / 0
        counts.append(len(prompt.prompt._backward_hooks or {}))
    assert monitor.coverage("prompt") == 1.0
    assert len({*counts}) == 1
    monitor.detach()
    assert not prompt.prompt._backward_hooks


class Wrapper(torch.optim.Optimizer):
    """An optimiser in another one, as accelerate has it: the base class was never initialised."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups


def test_a_wrapped_optimiser_is_unwrapped() -> None:
    model = net()
    inner = torch.optim.SGD(model.parameters(), 0.1)
    monitor = Monitor(model, Wrapper(inner))
    with monitor.step(samples=6):
        model(torch.randn(6, 4)).pow(2).mean().backward()
        inner.step()
    assert monitor.last.optimizers == (1,)


def test_what_is_no_optimiser_is_refused() -> None:
    with raises_code(InvalidType, "monitor.not-an-optimizer"):
        Monitor(net(), object())


@pytest.mark.parametrize("samples", [torch.tensor(6), 6.0])
def test_a_whole_number_of_any_type_will_do(samples: Any) -> None:
    monitor = Monitor(net())
    with monitor.step(samples=samples):
        pass
    assert monitor.last.samples == 6


@pytest.mark.parametrize("samples", ["6", 6.5, None])
def test_other_numbers_of_samples_are_refused(samples: Any) -> None:
    with raises_code(InvalidType, "monitor.samples-not-whole"), Monitor(net()).step(samples=samples):
        pass
