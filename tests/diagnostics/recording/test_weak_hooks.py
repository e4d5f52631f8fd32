"""A monitor that nobody holds is released, and a monitored model can be pickled and copied."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref

import torch
from torch import nn

from diagnostics import Monitor, audit
from diagnostics.recording.weak_hooks import hooks_aside


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def train(model: nn.Module, monitor: Monitor, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        with monitor.step(samples=5):
            model(torch.randn(5, 3)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()


def count_hooks(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> list[int]:
    weight = model[0].weight
    hooks = (model[0]._forward_hooks, model._forward_hooks, optimizer._optimizer_step_pre_hooks)
    return [*map(len, hooks), len(weight._backward_hooks or ())]


def test_a_forgotten_monitor_is_released_and_removes_its_hooks() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    gc.disable()  # reference counts alone must release it, as a cell that is run again expects
    try:
        for _ in range(3):
            monitor = Monitor(model, optimizer)
            train(model, monitor, optimizer)
        assert count_hooks(model, optimizer)[0] == 1
        gone = weakref.ref(monitor)
        del monitor
        assert gone() is None
    finally:
        gc.enable()
    assert count_hooks(model, optimizer) == [0, 0, 0, 0]


def test_a_monitored_model_is_pickled_without_the_monitor() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor = Monitor(model, optimizer)
    train(model, monitor, optimizer)
    file = io.BytesIO()
    torch.save(model, file)
    text = pickle.dumps(model)
    assert b"diagnostics" not in text
    file.seek(0)
    for other in (pickle.loads(text), copy.deepcopy(model), torch.load(file, weights_only=False)):
        seen = len(monitor.history)
        assert torch.equal(other(torch.ones(1, 3)), model(torch.ones(1, 3)))
        other(torch.ones(5, 3)).sum().backward()
        assert len(monitor.history) == seen


def test_what_holds_its_monitor_can_be_copied_and_pickled() -> None:
    model = net()
    model.watcher = Monitor(model)
    assert copy.deepcopy(model).watcher is model.watcher
    assert pickle.loads(pickle.dumps(model)).watcher is None


def test_a_step_may_save_its_model_while_its_operations_are_recorded() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    files: list[bytes] = []

    def step(model: nn.Module, x: torch.Tensor) -> float:
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        files.append(pickle.dumps(copy.deepcopy(model)))
        return loss.item()

    audit(model, step, [torch.randn(5, 3)], optimizer)
    monitor = Monitor(model, optimizer)
    for _ in range(10):
        with monitor.step(samples=5):
            step(model, torch.randn(5, 3))
    assert all(b"diagnostics" not in each for each in files)
    pickle.loads(files[-1])(torch.ones(1, 3))
    assert len(monitor.history) == 10


def test_hooks_are_put_aside_and_back_in_their_order() -> None:
    model = net()
    calls: list[str] = []
    handles = [model[0].register_forward_hook(lambda *given: calls.append("before"))]
    monitor = Monitor(model)
    handles.append(model[0].register_forward_hook(lambda *given: calls.append("after")))
    hooks = [*model[0]._forward_hooks]
    with hooks_aside(model):
        assert len(model[0]._forward_hooks) == 2
        assert not model._forward_hooks
        later = model[0].register_forward_hook(lambda *given: calls.append("later"))
        handles[1].remove()
    assert [*model[0]._forward_hooks] == [*hooks[:-1], later.id]
    with monitor.step(samples=5):
        model(torch.randn(5, 3)).sum().backward()
    assert calls == ["before", "later"]
    assert len(monitor.calls("0")) == 1
    monitor.detach()
    assert len(model[0]._forward_hooks) == 2
