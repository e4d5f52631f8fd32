"""A notebook shows findings and pictures, and a live view replaces what it showed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from diagnostics import Monitor, UnknownName, audit
from tests.diagnostics.refusals import refused

MODEL = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))


def train(monitor: Monitor, steps: int) -> None:
    for _ in range(steps):
        with monitor.step(samples=6):
            MODEL(torch.randn(6, 4)).square().mean().backward()


def test_a_monitor_shows_findings_table_and_pictures() -> None:
    with Monitor(MODEL) as monitor:
        assert "no step" in monitor._repr_html_()
        train(monitor, 2)
        shown = monitor._repr_html_()
    assert "<article" in shown
    assert "module  gradient" in shown
    assert 'src="data:image/png;base64,iVBOR' in shown


def test_an_audit_shows_its_findings() -> None:
    found = audit(MODEL, lambda model, x: model(x).square().mean(), [torch.randn(6, 4)], steps=2)
    assert "<article" in found._repr_html_()


def test_a_live_view_is_one_output_that_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    handle = SimpleNamespace(update=lambda content: shown.append(f"updated {content}"))

    def display(content: str, display_id: bool) -> object:
        shown.append(f"new {content}")
        return handle

    ends: list[Callable[[object], None]] = []
    events = SimpleNamespace(
        register=lambda name, call: ends.append(call), unregister=lambda name, call: ends.remove(call)
    )
    fake = SimpleNamespace(HTML=str, display=display)
    shell = SimpleNamespace(events=events)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=fake, get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    with Monitor(MODEL) as monitor:
        monitor.live(every=3)
        train(monitor, 8)
        assert [text.split()[0] for text in shown] == ["new", "updated", "updated"]  # steps 0, 3 and 6
        assert "step 6" in shown[-1]
        [end] = ends
        end(None)
        assert "step 7" in shown[-1]
        assert ends == []
        train(monitor, 3)  # in another cell, whose last step is shown as it comes
        assert [len(shown), *(call(None) for call in list(ends)), len(shown), len(ends)] == [5, None, 5, 0]


def test_without_a_notebook_there_is_no_live_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with Monitor(MODEL) as monitor, refused(UnknownName, "notebook.no-ipython"):
        monitor.live()
