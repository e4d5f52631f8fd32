"""The file and the line of a module are those of the class that uses it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Monitor
from diagnostics.findings import Evidence, Finding, Severity
from diagnostics.module_sources import find_source, locate_finding


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.head = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x))


class Chain(nn.Sequential):
    """Its forward is torch's."""


@pytest.mark.parametrize(
    ("name", "owner"),
    [("inner", Inner), ("inner.layers.0", Inner), ("head", Outer), ("no.such", Outer), ("", Outer)],
)
def test_a_layer_of_torch_is_where_it_is_used(name: str, owner: type[nn.Module]) -> None:
    file, line = find_source(Outer(), name)
    assert (Path(file).resolve(), line) == (
        Path(__file__).resolve(),
        inspect.getsourcelines(owner.forward)[1],
    )


def test_what_torch_alone_wrote_has_no_place() -> None:
    assert find_source(nn.Sequential(nn.Linear(2, 2)), "0") == ("", None)
    assert find_source(Chain(nn.Linear(2, 2)), "0") == ("", None)


def test_a_forward_of_a_library_is_not_the_place_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the forward that a LightningModule inherits: what it calls is written in the class."""

    class Trained(Outer):
        pass

    installed = Outer.forward.__code__.replace(co_filename="/lib/site-packages/library/core.py")
    monkeypatch.setattr(Outer.forward, "__code__", installed)
    file, line = find_source(Trained(), "head")
    assert (Path(file).resolve(), line) == (Path(__file__).resolve(), inspect.getsourcelines(Trained)[1])


def test_a_file_in_the_working_directory_is_named_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    assert find_source(Outer(), "head")[0] == Path(__file__).name


def test_consequences_have_their_own_place() -> None:
    evidence = Evidence("coverage", 0.0, None, 0, 1)
    follows = Finding("COV001", Severity.WARNING, "head", "", evidence, "", "")
    whole = Finding("GRAD001", Severity.CRITICAL, "", "", evidence, "", "", (follows,))
    located = locate_finding(whole, Outer())
    assert (located.file, located.line) == ("", None)  # of the whole model: no single place
    assert located.consequences[0].line == inspect.getsourcelines(Outer.forward)[1]
    assert located.fingerprint == whole.fingerprint


class Frozen(Outer):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.inner(x)
        return self.head(hidden)


def test_a_call_without_gradients_is_where_it_is_made() -> None:
    model = Frozen()
    monitor = Monitor(model, torch.optim.SGD(model.parameters(), 0.1))
    for x in torch.randn(6, 4, 2):
        with monitor.step(samples=4):
            model(x).sum().backward()
    (found,) = (each for each in monitor.findings() if each.rule == "GRAD001")
    lines, first = inspect.getsourcelines(Frozen.forward)
    called = first + next(number for number, text in enumerate(lines) if "self.inner(x)" in text)
    assert (Path(found.file).resolve(), found.line) == (Path(__file__).resolve(), called)
