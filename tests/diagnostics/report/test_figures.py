"""The cells of the pictures are the numbers of the records, and unknown ones are grey."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Monitor, UnknownName
from diagnostics.report import figures
from diagnostics.report.figures import draw_steps
from tests.diagnostics.refusals import refused


class Partly(nn.Module):
    """The core is called twice; its second call computes the first half of the samples, one of which is cut off."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.core, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, monitor: Monitor) -> Tensor:
        context = self.encoder(x)
        state = self.core(context)
        with monitor.rows(torch.arange(len(x) // 2)):
            half = self.core(state[: len(x) // 2])
        return half[1:].square().sum() + state[len(x) // 2 :].square().sum()


@pytest.fixture
def monitor() -> Monitor:
    model = Partly()
    monitor = Monitor(model, torch.optim.SGD(model.parameters(), 0.1))
    for _ in range(3):
        with monitor.step(samples=6):
            model(torch.randn(6, 4), monitor).backward()
    return monitor


def cells(axes: object) -> list[list[float]]:
    (image,) = axes.get_images()  # type: ignore[attr-defined]
    return image.get_array().filled(math.nan).tolist()  # type: ignore[no-any-return]


def test_the_pictures_show_the_records(monitor: Monitor) -> None:
    plot = monitor.plot()
    flow, coverage, samples = plot.figure.axes[:3]
    assert [label.get_text() for label in coverage.get_yticklabels()] == ["encoder", "core", "unused"]
    assert cells(coverage)[1] == [record.modules["core"]["coverage"] for record in monitor.history]
    norms = [record.modules["encoder"]["grad_norm_pre_clip"] for record in monitor.history]
    assert cells(flow)[0] == pytest.approx([math.log10(norm) for norm in norms])
    assert all(math.isnan(value) for value in cells(flow)[2])  # no gradient has no logarithm
    assert [label.get_text() for label in samples.get_xticklabels()] == ["encoder", "core 1", "core 2"]
    second = [row[2] for row in cells(samples)]
    assert second[0] == figures._NOTHING  # computed, and cut off
    assert max(second[1:3]) == 0.0 > min(second[1:3]) > -4.0
    assert all(math.isnan(value) for value in second[3:])  # not computed
    assert plot._repr_png_().startswith(b"\x89PNG")


def test_a_long_history_is_thinned(monitor: Monitor, tmp_path: Path) -> None:
    long = list(monitor.history) * 500
    plot = draw_steps(long, monitor.last)
    assert len(cells(plot.figure.axes[1])[0]) <= figures._MOST_COLUMNS
    plot.save(tmp_path / "steps.svg")
    assert (tmp_path / "steps.svg").read_text().startswith("<?xml")


def test_matplotlib_is_loaded_by_a_plot_alone(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with refused(UnknownName, "figures.no-matplotlib"):
        monitor.plot()
    assert "Findings" not in monitor._repr_html_()  # the rest needs none
    assert "<pre>step 2" in monitor._repr_html_()
