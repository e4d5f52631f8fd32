"""A monitor looks at the operations of three of its first steps, and at nothing else of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack

from diagnostics import Monitor, audit
from diagnostics.auditing import first_steps
from diagnostics.auditing.first_steps import STEPS, FirstSteps
from tests.devices.simulated import simulated_device


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3))


def twice(model: nn.Module, x: Tensor) -> Tensor:
    return F.cross_entropy(model(x).softmax(1), x[:, :3].argmax(1))


def once(model: nn.Module, x: Tensor) -> Tensor:
    return F.cross_entropy(model(x), x[:, :3].argmax(1))


def train(model: nn.Module, step: Any, monitor: Monitor | None, steps: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    torch.manual_seed(1)
    for x in torch.randn(steps, 16, 6):
        with monitor.step(samples=16) if monitor is not None else torch.enable_grad():
            step(model, x).backward()
            optimizer.step()
            optimizer.zero_grad()


def codes(monitor: Monitor) -> set[tuple[str, str]]:
    return {(each.rule, each.code) for each in monitor.findings() if each.rule != "RULE001"}


def not_followed(monitor: Monitor) -> str | None:
    """The code of the reason for which the operations were not judged."""
    notes = {each.code for each in monitor.findings() if "LOSS007" in each.message}
    return notes.pop() if notes else None


def unfollowed(step: Any) -> str | None:
    model = net()
    monitor = Monitor(model)
    train(model, step, monitor, STEPS[-1] + 1)
    return not_followed(monitor)


def watched(step: Any, steps: int = STEPS[-1] + 1, **options: Any) -> set[tuple[str, str]]:
    model = net()
    monitor = Monitor(model, **options)
    train(model, step, monitor, steps)
    return codes(monitor)


def test_a_monitor_says_what_an_audit_says_of_a_loss() -> None:
    model = net()
    report = audit(model, twice, list(torch.randn(4, 16, 6)), torch.optim.SGD(model.parameters(), 0.01))
    named = {(each.rule, each.code) for each in report.findings if each.rule == "LOSS003"}
    assert watched(twice) == named == {("LOSS003", "applied-twice")}
    assert watched(once) == set()


def test_it_is_known_after_the_last_of_these_steps() -> None:
    assert watched(twice, STEPS[-1]) == set()


def test_it_is_left_out_on_request() -> None:
    assert watched(twice, operations=False) == set()


def test_an_accelerator_waits_only_on_request() -> None:
    with simulated_device() as device:
        for operations, reason in ((None, "on-accelerator"), (False, None), (True, None)):
            monitor = Monitor(net().to(device), operations=operations)
            assert (monitor._first is not None) == bool(operations)
            assert not_followed(monitor) == reason


def test_weights_are_those_of_a_training_without_it() -> None:
    weights = []
    for watch in (True, False):
        model = net()
        train(model, once, Monitor(model) if watch else None, 12)
        weights.append([each.detach().clone() for each in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


@pytest.mark.parametrize("limit", ["_MOST_OPERATIONS", "_MOST_ELEMENTS"])
def test_a_step_that_is_too_large_ends_it(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_steps, limit, 2)
    assert watched(twice) == set()
    assert unfollowed(twice) == "step-too-large"


@pytest.mark.parametrize("part", ["_note", "observe", "finish"])
def test_an_error_in_the_recording_ends_it_and_not_the_training(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(first_steps.OperationTrace, part, fail)
    assert watched(twice) == set()
    assert unfollowed(twice) == "recording-failed"


def test_an_error_in_a_judgement_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(first_steps, "check_traces", fail)
    assert watched(twice) == set()
    assert unfollowed(twice) == "recording-failed"


def test_steps_of_several_sizes_are_not_judged() -> None:
    model = net()
    monitor = Monitor(model)
    for size in range(8, 8 + STEPS[-1] + 1):
        with monitor.step(samples=size):
            twice(model, torch.randn(size, 6)).backward()
    assert ("LOSS003", "applied-twice") not in codes(monitor)
    assert not_followed(monitor) == "samples-vary"


def test_a_function_transform_in_the_step_is_left_alone() -> None:
    def step(model: nn.Module, x: Tensor) -> Tensor:
        squares = torch.func.vmap(lambda row: row.square().sum())(x)
        return once(model, x) + 0.0 * squares.mean()

    assert watched(step) == set()
    assert unfollowed(step) == "transformed-code"


@pytest.fixture
def compiler() -> Iterator[Counter[str]]:
    """The number of graphs that torch.compile made, by kind, which is as before afterwards."""
    counters = torch._dynamo.utils.counters
    kept = {name: counter.copy() for name, counter in counters.items()}
    torch.compiler.reset()
    counters.clear()
    yield counters["stats"]
    torch.compiler.reset()
    counters.clear()
    counters.update(kept)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # which torch.compile itself reads
def test_a_compiled_loss_is_left_alone(compiler: Counter[str]) -> None:
    graphs, found = [], list[str | None]()
    for operations in (False, True):
        torch.compiler.reset()
        compiler.clear()
        compiled = torch.compile(
            lambda output, x: F.cross_entropy(output, x[:, :3].argmax(1)), backend="eager"
        )
        model = net()
        monitor = Monitor(model, operations=operations)
        train(model, lambda model, x, loss=compiled: loss(model(x), x), monitor, STEPS[-1] + 1)
        graphs.append(compiler["unique_graphs"])
        found.append(not_followed(monitor))
    assert graphs[0] == graphs[1] > 0
    assert found == [None, "compiled-code"]


def test_a_step_that_raises_leaves_the_others_unjudged() -> None:
    model = net()
    monitor = Monitor(model)
    for number, x in enumerate(torch.randn(STEPS[-1] + 1, 16, 6)):
        with suppress(RuntimeError), monitor.step(samples=16):
            if number == STEPS[0]:
                raise RuntimeError
            twice(model, x).backward()
    assert ("LOSS003", "applied-twice") not in codes(monitor)
    assert not_followed(monitor) == "step-raised"


def test_a_compiled_model_is_left_alone() -> None:
    class Compiled(nn.Module):
        """As torch.compile() wraps a module."""

        def __init__(self) -> None:
            super().__init__()
            self._orig_mod = net()

    assert not FirstSteps(nn.Sequential(Compiled()), lambda name: name)._open
    assert FirstSteps(net(), lambda name: name)._open


def test_what_the_toolkit_calls_is_not_noted() -> None:
    class Calling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    model = nn.Sequential(Calling())
    first = FirstSteps(model, lambda name: name)
    monitor = Monitor(model, operations=False)
    for _ in range(STEPS[0] + 1):
        with monitor.step(samples=4), first.watch(4):
            model(torch.randn(4, 3))
    (seen,) = first._steps
    assert seen.trace._count == 1  # randn


def test_modes_of_the_user_may_begin_and_end_inside_a_step_and_around_its_bounds() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with Monitor(model, optimizer) as monitor:
        for x in torch.randn(STEPS[-1] + 1, 16, 6):
            step, around, inside = monitor.step(samples=16), torch.device("cpu"), torch.device("cpu")
            with around:
                step.__enter__()
            with inside:
                twice(model, x).backward()
                optimizer.step()
                optimizer.zero_grad()
                step.__exit__(None, None, None)
                assert len(_get_current_function_mode_stack()) == 1
            assert not _get_current_function_mode_stack()
    assert codes(monitor) == {("LOSS003", "applied-twice")}
