"""What the monitor sees of models that torch.compile has compiled: the same, or it says that it does not know."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Absent, Monitor

pytestmark = [
    # torch's own, of its compiler
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
LIVE = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])[:, None]
Made = tuple[Callable[[Tensor], Tensor], Monitor]


class Net(nn.Module):
    """A core called three times, once under no_grad."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        self.core = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        context = self.encoder(x)
        with torch.no_grad():
            state = self.core(context)
        for _ in range(2):
            state = torch.tanh(self.core(state + context))
        return self.head(state)


def plain(model: Net, backend: str) -> Made:
    return model, Monitor(model)


def monitor_first(model: Net, backend: str) -> Made:
    monitor = Monitor(model)
    return torch.compile(model, backend=backend), monitor


def compiled_first(model: Net, backend: str) -> Made:
    return torch.compile(model, backend=backend), Monitor(model)


def the_compiled_model(model: Net, backend: str) -> Made:
    compiled = torch.compile(model, backend=backend)
    return compiled, Monitor(compiled)


def in_place(model: Net, backend: str) -> Made:
    model.compile(backend=backend)
    return model, Monitor(model)


def a_part(model: Net, backend: str) -> Made:
    model.encoder = torch.compile(model.encoder, backend=backend)
    return model, Monitor(model)


def after_the_first_run(model: Net, backend: str) -> Made:
    compiled = torch.compile(model, backend=backend)
    compiled(torch.randn(6, 4))
    return compiled, Monitor(model)


def observe(make: Callable[[Net, str], Made], backend: str) -> Monitor:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Net()
    run, monitor = make(model, backend)
    torch.manual_seed(1)
    for _ in range(6):
        with monitor.step(samples=6):
            (run(torch.randn(6, 4)) * LIVE).square().sum().backward()
        model.zero_grad()
    return monitor


def test_a_compiled_layer_has_the_coverage_of_a_plain_one() -> None:
    layer = nn.Linear(4, 8)
    monitor = Monitor(layer)
    with monitor.step(samples=6):
        (torch.compile(layer, backend="eager")(torch.randn(6, 4)) * LIVE).sum().backward()
    (found,) = monitor.last.modules.values()
    assert (found.state, found.coverage) == ("arrived", 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "backend"),
    [
        (monitor_first, "aot_eager"),
        (monitor_first, "inductor"),
        (compiled_first, "aot_eager"),
        (the_compiled_model, "aot_eager"),
        (in_place, "aot_eager"),
        (a_part, "aot_eager"),
    ],
)
def test_compiled_is_seen_as_plain(make: Callable[[Net, str], Made], backend: str) -> None:
    truth, monitor = observe(plain, ""), observe(make, backend)
    for name in ("encoder", "core", "head"):
        expected, found = truth.last.modules[name], monitor.last.modules[name]
        assert (found.state, found.coverage, found.waste) == (
            expected.state,
            expected.coverage,
            expected.waste,
        )
        assert found.evenness == pytest.approx(expected.evenness, rel=1e-4)
        assert found.calls_grad_enabled == expected.calls_grad_enabled
        assert [call.gradient for call in found.calls] == [call.gradient for call in expected.calls]


@pytest.mark.slow
def test_a_graph_compiled_before_the_monitor_is_not_known() -> None:
    monitor = observe(after_the_first_run, "aot_eager")
    coverage = monitor.coverage("encoder")
    assert isinstance(coverage, Absent)
    assert coverage.code == "other-way"
    (found,) = monitor.findings(ignore=["RULE001"])
    assert (found.rule, found.module) == ("COV003", "")  # one cause, with a finding of each module under it
    assert {(each.rule, each.module) for each in found.consequences} == {
        ("COV003", name) for name in ("encoder", "core", "head")
    }


@pytest.mark.slow
def test_a_full_graph_is_refused_aloud() -> None:
    """The hooks break the graph at each watched module."""
    torch._dynamo.reset()
    model = Net()
    monitor = Monitor(model)
    with pytest.raises(torch._dynamo.exc.Unsupported), monitor.step(samples=6):
        torch.compile(model, backend="eager", fullgraph=True)(torch.randn(6, 4))
