"""Pictures of a monitored run: gradient flow, coverage, and which sample trains which call; needs matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diagnostics.errors import UnknownName
from diagnostics.records import Absent, ModuleRecord, Number, StepRecord, StepScalars

_UNKNOWN = "#d0d0d0"
_ROW = 0.24  # inches of a module's row
_DECADES = 4  # of gradient that a colour can distinguish
_NOTHING = -99.0  # below every logarithm that is drawn
_MOST_COLUMNS = 400  # steps that are drawn; more are thinned out, because a picture has about as many pixels


@dataclass(frozen=True)
class StepPlot:
    """A figure that a notebook shows.

    Attributes:
        figure: The `matplotlib.figure.Figure`.
    """

    figure: Any = field(repr=False)

    def save(self, path: str | Path) -> None:
        """Write it to a file whose ending names the format, such as `.png` or `.svg`."""
        self.figure.savefig(path, dpi=150)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def draw_steps(history: Sequence[StepScalars], last: StepRecord) -> StepPlot:
    """Gradient flow and coverage of every watched module over the steps, and the samples of the last step by call.

    Raises:
        UnknownName: matplotlib is not installed.
    """
    names = [*last.order, *(name for name in last.modules if name not in last.order)]
    thinned = list(history)[:: -(-len(history) // _MOST_COLUMNS)]
    calls = [(name, number) for name in names for number in range(len(last.modules[name].calls))]
    height = _ROW * len(names)
    figure = _import("matplotlib.figure").Figure(figsize=(9, 2 * height + 6.5), layout="constrained")
    flow, coverage, samples = figure.subplots(
        3, 1, gridspec_kw={"height_ratios": [height + 1, height + 1, 3.2 + 0.01 * len(calls)]}
    )
    _draw_modules(figure, flow, names, thinned, "grad_norm_pre_clip", _log10)
    flow.set_title(
        "Gradient flow: log10 of the norm of each module's gradient", loc="left", fontsize="medium"
    )
    _draw_modules(figure, coverage, names, thinned, "coverage", lambda value: value, (0.0, 1.0))
    coverage.set_title("Coverage: share of the samples that train each module", loc="left", fontsize="medium")
    _draw_samples(figure, samples, calls, last)
    samples.set_title(
        f"Samples by call, step {last.step}: log10 of the gradient, relative to the call's largest; black: none",
        loc="left",
        fontsize="medium",
    )
    return StepPlot(figure)


def _log10(value: float) -> float:
    return math.log10(value) if value > 0.0 and math.isfinite(value) else math.nan


def _draw_modules(
    figure: Any,
    axes: Any,
    names: Sequence[str],
    history: Sequence[StepScalars],
    number: str,
    scale: Callable[[float], float],
    limits: tuple[float, float] | tuple[None, None] = (None, None),
) -> None:
    """A row per module, a column per step; grey is not known."""

    def value(record: StepScalars, name: str) -> float:
        found: Number | None = record.modules.get(name, {}).get(number)
        return math.nan if found is None or isinstance(found, Absent) else scale(found)

    cells = [[value(record, name) for record in history] for name in names]
    first, last = history[0].step, history[-1].step
    half = 0.5 * max(last - first, 1) / max(len(history) - 1, 1)
    image = axes.imshow(
        cells,
        aspect="auto",
        interpolation="nearest",
        cmap=_colors("viridis"),
        vmin=limits[0],
        vmax=limits[1],
        extent=(first - half, last + half, len(names) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("step")
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(image, ax=axes, pad=0.01)


def _draw_samples(figure: Any, axes: Any, calls: Sequence[tuple[str, int]], last: StepRecord) -> None:
    """A row per sample, a column per call: black is no gradient, grey a sample that the call did not compute."""
    columns = [_column(last.modules[name], number, last.samples) for name, number in calls]
    if not columns:
        axes.text(0.5, 0.5, "no call in this step", ha="center", va="center", transform=axes.transAxes)
        return
    image = axes.imshow(
        torch.stack(columns, 1).tolist(),
        aspect="auto",
        interpolation="nearest",
        cmap=_colors("viridis").with_extremes(bad=_UNKNOWN, under="black"),
        vmin=-_DECADES,
        vmax=0.0,
    )
    several = {name for name, number in calls if number}
    labels = [f"{name} {number + 1}" if name in several else name for name, number in calls]
    axes.set_xticks(range(len(calls)), labels, rotation=45, ha="right")
    axes.set_ylabel("sample")
    axes.yaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(image, ax=axes, pad=0.01)


def _column(module: ModuleRecord, number: int, samples: int) -> Tensor:
    """(samples,) log10 of the gradient of each sample at one call, relative to the largest; NaN if it did not run."""
    call = module.calls[number]
    column = torch.full((samples,), math.nan, dtype=torch.float64)
    if isinstance(call.samples, Absent):
        return column
    index = call.samples.flatten()
    column[index] = _NOTHING
    if not isinstance(call.row_gradients, Absent):
        sizes = call.row_gradients.double().flatten()
        known = sizes.isfinite() & (sizes > 0.0)
        largest = sizes[known].max() if known.any() else sizes.new_ones(())
        column.scatter_reduce_(0, index[known], (sizes[known] / largest).log10(), "amax")
    return column


def _colors(name: str) -> Any:
    return _import("matplotlib").colormaps[name].with_extremes(bad=_UNKNOWN)


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        raise UnknownName(
            "figures.no-matplotlib", "plots need matplotlib: pip install 'matplotlib>=3.9'"
        ) from error
