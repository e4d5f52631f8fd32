"""A collapse is told of the module that makes it, not of one that was given the same for all samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Absent, Monitor

BATCH = 12

Given = Callable[[Tensor], Any]


class Net(nn.Module):
    """`side` reads what `given` makes of the encoder's output, or of data, and the head reads both."""

    def __init__(self, given: Given, side: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 16)
        self.side = side
        self.head = nn.Linear(16, 16)
        self.given = given

    def forward(self, x: Tensor) -> Tensor:
        context = self.encoder(x)
        return self.head(context + self.side(self.given(context)))


class Opaque(nn.Module):
    """Reads an object that cannot be looked into, and a flag for every sample."""

    def forward(self, given: tuple[Any, Tensor]) -> Tensor:
        hidden, flag = given
        return 0 * hidden.value + flag[:, None]


class Held:
    def __init__(self, value: Tensor) -> None:
        self.value = value


def collapsed(given: Given, side: nn.Module, repeated: bool = False) -> list[str]:
    torch.manual_seed(0)
    model = Net(given, side)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    monitor = Monitor(model, optimizer)
    for _ in range(6):
        x = torch.randn(BATCH, 4)
        with monitor.step(samples=BATCH):
            model(x[:1].expand(BATCH, 4) if repeated else x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return [finding.module for finding in monitor.findings() if finding.rule == "COLLAPSE001"]


def types(context: Tensor) -> Tensor:
    return torch.zeros(len(context), dtype=torch.long)


@pytest.mark.parametrize(
    ("given", "side", "said"),
    [
        (types, nn.Embedding(2, 16), []),
        (lambda c: torch.ones(len(c), 5000), nn.Linear(5000, 16), []),
        (lambda c: torch.arange(len(c)) % 2, nn.Embedding(2, 16), []),
        (lambda c: c.mean(0).expand(len(c), 16), nn.Linear(16, 16), ["side"]),
        (lambda c: c, nn.Sequential(nn.Linear(16, 16), nn.Threshold(1e9, 3.0)), ["side"]),
        (lambda c: torch.rand(len(c), 16), nn.Threshold(1e9, 3.0), ["side"]),
        (lambda c: (Held(c.detach()), torch.ones(len(c))), Opaque(), ["side"]),
    ],
    ids=[
        "token types",
        "constant data",
        "types that differ",
        "mean",
        "saturated",
        "saturated data",
        "opaque",
    ],
)
def test_a_constant_side_input_is_no_collapse(given: Given, side: nn.Module, said: list[str]) -> None:
    assert collapsed(given, side) == said


def test_a_batch_of_one_sample_again_and_again_is_told() -> None:
    assert collapsed(types, nn.Embedding(2, 16), repeated=True) == ["encoder"]


class Gated(nn.Module):
    """The head reads a signal times a gate that is the same for all samples, and reads the signal or another one."""

    def __init__(self, reads: str) -> None:
        super().__init__()
        self.signal, self.other = nn.Linear(4, 16), nn.Linear(4, 16)
        self.gate = nn.Sequential(nn.Linear(16, 16), nn.Hardsigmoid(), nn.Threshold(1e9, 0.5))
        self.head = nn.Linear(16, 16)
        self.reads = reads

    def forward(self, x: Tensor) -> Tensor:
        signal, other = self.signal(x), self.other(x)
        gate = self.gate(other if self.reads == "other" else signal)
        if self.reads == "added":
            return self.head(other * signal + gate)
        return self.head(gate * signal if self.reads != "alone" else gate) + 1e-9 * other


@pytest.mark.parametrize(
    ("reads", "said"), [("signal", []), ("other", ["gate"]), ("added", ["gate"]), ("alone", ["gate"])]
)
def test_a_gate_of_its_own_input_loses_nothing(reads: str, said: list[str]) -> None:
    torch.manual_seed(0)
    model = Gated(reads)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    monitor = Monitor(model, optimizer)
    for _ in range(6):
        with monitor.step(samples=BATCH):
            model(torch.randn(BATCH, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert [each.module for each in monitor.findings() if each.rule == "COLLAPSE001"] == said


class Sided(nn.Module):
    """A layer that receives something besides the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 16)

    def forward(self, x: Tensor, side: Tensor) -> Tensor:
        return self.layer(x) + side.sum()


@pytest.mark.parametrize(
    ("x", "side", "differ"),
    [
        (torch.ones(8, 4), torch.ones(8, 2), False),
        (torch.ones(8, 4), torch.arange(16.0).reshape(8, 2), True),
        (torch.arange(32.0).reshape(8, 4), torch.ones(8, 2), True),
        (torch.ones(8, 4), torch.arange(6.0).reshape(3, 2), False),  # of no sample
    ],
)
def test_inputs_differ_where_one_that_leads_with_the_samples_does(
    x: Tensor, side: Tensor, differ: bool
) -> None:
    model = nn.ModuleDict({"sided": Sided()})
    monitor = Monitor(model)
    with monitor.step(samples=8):
        model["sided"](x, side).sum().backward()
    output = monitor.last.modules["sided"].output
    assert not isinstance(output, Absent)
    assert output.inputs_differ is differ


class Types(nn.Module):
    """Types that are the same for all samples, read first; then an encoder whose output is as good as constant."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.types = nn.Embedding(2, 16)
        self.encoder = nn.Linear(4, 16)
        nn.init.normal_(self.encoder.weight, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.types(torch.zeros(len(x), dtype=torch.long)) + self.encoder(x)


def test_raw_inputs_alone_tell_that_samples_differ() -> None:
    model = Types()
    monitor = Monitor(model)
    for _ in range(6):
        with monitor.step(samples=8):
            model(torch.randn(8, 4)).square().sum().backward()
        model.zero_grad()
    collapsed = [finding.module for finding in monitor.findings() if finding.rule == "COLLAPSE001"]
    assert collapsed == ["encoder"]


class Asking(nn.Module):
    """Learnt queries, normalised and projected, ask for parts of the sample; broken, the samples are averaged first."""

    def __init__(self, averaged: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.queries, self.averaged = nn.Parameter(torch.randn(3, 8)), averaged
        self.norm, self.query, self.key, self.head = (
            nn.LayerNorm(8),
            nn.Linear(8, 8),
            nn.Linear(4, 8),
            nn.Linear(8, 8),
        )

    def forward(self, x: Tensor) -> Tensor:
        key = self.key(x)
        if self.averaged:
            key = key.mean(0, keepdim=True).expand_as(key)
        asked = self.query(self.norm(self.queries.expand(len(x), 3, 8)))
        return self.head((asked @ key.transpose(1, 2)).softmax(2) @ key)


@pytest.mark.parametrize("averaged", [False, True])
def test_a_learnt_query_that_is_repeated_for_each_sample_is_no_collapse(averaged: bool) -> None:
    """An average over the samples is one: what reads it reads samples, and makes them equal."""
    model = Asking(averaged)
    monitor = Monitor(model, operations=False)
    for _ in range(6):
        with monitor.step(samples=8):
            model(torch.randn(8, 5, 4)).square().sum().backward()
        model.zero_grad()
    found = [finding.module for finding in monitor.findings() if finding.rule == "COLLAPSE001"]
    assert found == (["head"] if averaged else [])
    assert monitor.last.constant == {"norm", "query"}
