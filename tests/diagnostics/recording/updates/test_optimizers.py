"""An optimiser that another one steps for counts as stepped, once, and as idle where nothing steps for it."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Monitor, Severity
from diagnostics.recording.updates.optimizers import list_inner


class Sam(torch.optim.Optimizer):
    """Climbs before a second pass, whose gradient another optimiser applies; its own `step` takes a closure."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"rho": 0.05})
        self.base = torch.optim.SGD(self.param_groups, lr=0.1)
        self.param_groups = self.base.param_groups
        self.climbed: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def climb(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            self.climbed.append((parameter, parameter.grad.clone()))
            parameter.add_(parameter.grad, alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def descend(self) -> None:
        for parameter, change in self.climbed:
            parameter.sub_(change, alpha=0.05)
        self.climbed.clear()
        self.base.step()

    def step(self, closure: Any = None) -> None:
        self.climb()
        with torch.enable_grad():
            closure()
        self.descend()


class Lookahead(torch.optim.Optimizer):
    """As that of timm: the base class is never initialised, so that no hook is called."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        self.base, self.param_groups, self.defaults = base, base.param_groups, base.defaults
        self.state: Any = defaultdict(dict)
        self._optimizer_step_pre_hooks: Any = OrderedDict()
        self._optimizer_step_post_hooks: Any = OrderedDict()

    def step(self, closure: Any = None) -> None:
        self.base.step()


Update = Callable[[Callable[[], Any]], None]


def sam_in_two(model: nn.Module, stepping: bool) -> tuple[Sam, Update]:
    optimizer = Sam(model.parameters())

    def update(backward: Callable[[], Any]) -> None:
        backward()
        optimizer.climb()
        backward()
        if stepping:
            optimizer.descend()
        optimizer.zero_grad()

    return optimizer, update


def sam_with_closure(model: nn.Module, stepping: bool) -> tuple[Sam, Update]:
    optimizer = Sam(model.parameters())

    def update(backward: Callable[[], Any]) -> None:
        backward()
        if stepping:
            optimizer.step(backward)
        optimizer.zero_grad()

    return optimizer, update


def lookahead(model: nn.Module, stepping: bool) -> tuple[Lookahead, Update]:
    optimizer = Lookahead(torch.optim.SGD(model.parameters(), lr=0.1))

    def update(backward: Callable[[], Any]) -> None:
        backward()
        if stepping:
            optimizer.step()
        optimizer.base.zero_grad()

    return optimizer, update


@pytest.mark.parametrize("make", [sam_in_two, sam_with_closure, lookahead])
@pytest.mark.parametrize("stepping", [True, False])
def test_an_optimiser_that_another_one_steps_for(make: Any, stepping: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer, update = make(model, stepping)
    monitor = Monitor(model, optimizer)
    for _ in range(22):
        x, labels = torch.randn(8, 4), torch.randint(3, (8,))
        with monitor.step(samples=8):
            update(lambda x=x, labels=labels: nn.functional.cross_entropy(model(x), labels).backward())
    assert monitor.last.optimizers == (int(stepping),)
    found = {each.rule for each in monitor.findings() if each.severity > Severity.NOTE}
    alone = "MOVE002" if make is sam_in_two else "MOVE003"  # the first half alone moves the weights too
    assert found == (set() if stepping else {alone})


def test_an_optimiser_that_holds_none_has_no_inner_one() -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    assert list_inner(optimizer) == []
    assert list_inner(Lookahead(optimizer)) == [optimizer]
