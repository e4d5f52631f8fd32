"""Coverage, waste, evenness and calls by hooks equal brute force on random models.

The truth: B single-sample losses of the same forward pass, and for each the gradient at every output
that a module returned. Nothing of the toolkit takes part in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from diagnostics import Absent, Monitor

WIDTH = 3


@dataclass(frozen=True)
class Call:
    """One call of a module in a random program."""

    module: str
    enabled: bool
    rows: tuple[int, ...]  # () for the whole batch, else the samples that are computed
    live: tuple[bool, ...]  # samples through which the result is used with gradient


@dataclass
class Trace:
    """What every call returned, with the samples of its rows."""

    outputs: list[tuple[Call, Tensor, list[int]]] = field(default_factory=list)


class Program(nn.Module):
    """Runs the calls one after the other on a state that stands for all samples."""

    def __init__(self, calls: list[Call], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(2))
        self.head = nn.Linear(WIDTH, 2)
        self.double()
        self.calls = calls

    def forward(self, x: Tensor, trace: Trace, monitor: Monitor) -> Tensor:
        state = x
        for call in self.calls:
            module = self.get_submodule(call.module)
            rows = list(call.rows) or list(range(len(x)))
            with torch.set_grad_enabled(call.enabled):
                if call.rows:
                    with monitor.rows(torch.tensor(rows)):
                        output = module(state[rows])
                else:
                    output = module(state)
            trace.outputs.append((call, output, rows))
            used = torch.zeros_like(state).index_add(0, torch.tensor(rows), output)
            live = torch.tensor(call.live)[:, None]
            state = state + torch.where(live, used, used.detach())
        return self.head(state)


@st.composite
def programs(draw: st.DrawFn) -> tuple[int, list[Call]]:
    batch = draw(st.integers(1, 5))
    samples = st.lists(st.integers(0, batch - 1), unique=True, min_size=1).map(tuple)
    call = st.builds(
        Call,
        module=st.sampled_from(["first", "second"]),
        enabled=st.sampled_from([True, True, False]),
        rows=st.one_of(st.just(()), samples),
        live=st.tuples(*[st.booleans()] * batch),
    )
    return batch, draw(st.lists(call, min_size=1, max_size=5))


def brute_force(trace: Trace, losses: Tensor) -> list[Tensor]:
    """Per call: (B,) the largest |gradient| of loss b at the row of sample b."""
    sizes = []
    for _, output, rows in trace.outputs:
        size = torch.zeros(len(losses), dtype=torch.float64)
        for place, sample in enumerate(rows):
            if output.requires_grad:
                (gradient,) = torch.autograd.grad(
                    losses[sample], output, retain_graph=True, allow_unused=True
                )
                size[sample] = 0.0 if gradient is None else gradient[place].abs().max()
        sizes.append(size)
    return sizes


@settings(max_examples=60, deadline=None)
@given(program=programs(), seed=st.integers(0, 10_000), weights_seed=st.integers(0, 10_000))
def test_equals_brute_force(program: tuple[int, list[Call]], seed: int, weights_seed: int) -> None:
    batch, calls = program
    model = Program(calls, seed)
    monitor = Monitor(model, watch=["first", "second"])
    torch.manual_seed(weights_seed)
    weights = (torch.rand(batch, dtype=torch.float64) > 0.2).double()  # some samples have no loss
    trace = Trace()
    with monitor.step(samples=batch):
        output = model(torch.randn(batch, WIDTH).double(), trace, monitor)
        losses = weights * nn.functional.cross_entropy(
            output, torch.zeros(batch, dtype=torch.int64), reduction="none"
        )
        losses.sum().backward(retain_graph=True)

    truth = brute_force(trace, losses)
    for name in ("first", "second"):
        mine = [
            (call, size, rows)
            for (call, _, rows), size in zip(trace.outputs, truth, strict=True)
            if call.module == name
        ]
        n = torch.stack([size for _, size, _ in mine]).amax(0) if mine else torch.zeros(batch).double()
        covering = int((n > 0).sum())
        processed = len({sample for _, _, rows in mine for sample in rows})
        assert monitor.coverage(name) == covering / batch
        if processed:
            assert monitor.waste(name) == pytest.approx(1 - covering / processed)
        else:
            assert isinstance(monitor.waste(name), Absent)
        if covering:
            expected = float(n.sum() ** 2 / (batch * (n**2).sum()))
            assert monitor.evenness(name) == pytest.approx(expected)
        else:
            assert isinstance(monitor.evenness(name), Absent)
        records = monitor.calls(name)
        assert [record.grad_enabled for record in records] == [call.enabled for call, _, _ in mine]
        assert [record.gradient for record in records] == [bool((size > 0).any()) for _, size, _ in mine]
        assert [record.rows for record in records] == [len(rows) for _, _, rows in mine]
        for record, (_, size, rows) in zip(records, mine, strict=True):
            if record.gradient:
                torch.testing.assert_close(record.row_gradients, size[rows])
