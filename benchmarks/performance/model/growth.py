"""How step time and memory grow with D, canvas, demos and batch size."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from benchmarks.performance.model.workload import TrainingStep, build_model, make_config
from benchmarks.performance.section import BenchmarkSection, Conditions, Table
from benchmarks.performance.timing import Contender, Timing, Work, compute_ratios, format_spread, take_turns
from etrm.batch import Batch, Demos
from etrm.config import SIDE


@dataclass(frozen=True)
class Point:
    """The size of a training problem with full regions of random tokens.

    Attributes:
        width: D.
        side: the side of every grid; a pair has two grids.
        demos: the number of pairs of a sample.
        rows: the number of samples of a batch.
    """

    width: int = 64
    side: int = 15
    demos: int = 3
    rows: int = 8

    def step(self, device: torch.device) -> TrainingStep:
        """Build a new model and its training step."""
        config = make_config(model={"hidden_size": self.width})
        return TrainingStep(config, build_model(config, device))

    def batch(self, device: torch.device) -> Batch:
        """Build a batch of random colours without padding."""
        generator = torch.Generator().manual_seed(0)
        cells, pairs = self.side**2, self.rows * self.demos
        places = (SIDE * torch.arange(self.side)[:, None] + torch.arange(self.side)).flatten()

        def colours(rows: int, length: int) -> torch.Tensor:
            return torch.randint(2, 12, (rows, length), generator=generator).to(device)

        both = torch.cat((places, places + SIDE * SIDE))
        return Batch(
            inputs=colours(self.rows, cells),
            labels=colours(self.rows, cells),
            positions=places.expand(self.rows, -1).to(device),
            valid=None,
            puzzle_ids=torch.zeros(self.rows, dtype=torch.long, device=device),
            sample_ids=torch.arange(self.rows, device=device),
            demos=Demos(
                tokens=colours(pairs, 2 * cells),
                positions=both.expand(pairs, -1).to(device),
                valid=None,
                owner=torch.arange(self.rows, device=device).repeat_interleave(self.demos),
                slots=torch.arange(self.rows, device=device),
            ),
        )


BASE = Point()
AXES: dict[str, tuple[int, ...]] = {
    "width": (32, 64, 128, 256),
    "side": (5, 10, 15, 20, 30),
    "demos": (1, 2, 3, 5, 10),
    "rows": (2, 4, 8, 16, 32),
}
LABELS = {"width": "D", "side": "side of the grids", "demos": "demos", "rows": "batch size"}
CHECKS = 3
"""Number of processes for the base point, to see how much memory varies."""


def measure_growth(conditions: Conditions) -> BenchmarkSection:
    """Measure times in turns in this process, and memory in a new process for each point."""
    points = sorted({point for axis in AXES for point in along(axis)}, key=str)
    contenders = [_contender(point, conditions.device) for point in points]
    timings = dict(
        zip(points, take_turns(contenders, conditions.repetitions, conditions.device), strict=True)
    )
    memory = {point: peak_memory(point, conditions.device) for point in points}
    again = [peak_memory(BASE, conditions.device) / 2**20 for _ in range(CHECKS)]
    rows = []
    for axis in AXES:
        for point in along(axis):
            seconds = timings[point].seconds
            rows.append(
                (
                    f"{LABELS[axis]} {getattr(point, axis)}",
                    format_spread(seconds),
                    format_spread(compute_ratios(seconds, timings[BASE].seconds)),
                    f"{memory[point] / 2**20:,.0f}",
                    f"{memory[point] / memory[BASE]:.2f}",
                )
            )
    header = ("point", "seconds a step", "x base", "MiB", "x base")
    words = (
        f"The base is D {BASE.width}, grids of {BASE.side}x{BASE.side} (a query of {BASE.side**2} tokens, pairs of "
        f"{2 * BASE.side**2}), {BASE.demos} demos, batch {BASE.rows}; one thing is changed at a time. Invented grids "
        f"without padding. Times: n {conditions.repetitions} turns. Memory: what two training steps add to the highest "
        "resident memory of a fresh process, on a GPU what torch allocates; the base "
        f"{CHECKS} times more: {', '.join(f'{value:,.0f}' for value in again)} MiB.",
        fit_growth_rates(timings, memory),
    )
    return BenchmarkSection((Table(header, tuple(rows)),), words, {"growth": draw(timings, memory)})


def along(axis: str) -> list[Point]:
    """Return the points of an axis, which equal the base in everything else."""
    return [replace(BASE, **{axis: value}) for value in AXES[axis]]


def _contender(point: Point, device: torch.device) -> Contender:
    step, batch = point.step(device), point.batch(device)

    def prepare() -> Work:
        return lambda: step(batch)

    return Contender(str(point), prepare)


def peak_memory(point: Point, device: torch.device) -> float:
    """Measure the bytes that training on a point takes, in a separate process."""
    numbers = (point.width, point.side, point.demos, point.rows)
    command = [sys.executable, "-m", "benchmarks.performance.model.memory", *map(str, numbers), device.type]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


def fit_exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """Compute b of cost ~ value^b between the last two points, where fixed costs matter least."""
    return float(np.log(costs[-1] / costs[-2]) / np.log(values[-1] / values[-2]))


def fit_growth_rates(timings: dict[Point, Timing], memory: dict[Point, float]) -> str:
    """Describe the exponents at the end of each axis in one sentence."""
    parts = []
    for axis, values in AXES.items():
        points = along(axis)
        time = fit_exponent(values, [float(np.median(timings[point].seconds)) for point in points])
        space = fit_exponent(values, [memory[point] for point in points])
        parts.append(f"{LABELS[axis]} {time:.1f} and {space:.1f}")
    return f"Between the last two points time and memory grow with a power of: {'; '.join(parts)}."


def draw(timings: dict[Point, Timing], memory: dict[Point, float]) -> bytes:
    """Draw time above and memory below, with a column for each axis; the base has a hollow marker."""
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    panels = figure.subplots(2, len(AXES), sharey="row", squeeze=False)
    for column, axis in enumerate(AXES):
        points, values = along(axis), AXES[axis]
        quartiles = np.array([np.percentile(timings[point].seconds, (25, 50, 75)) for point in points]).T
        sizes = [memory[point] / 2**20 for point in points]
        for panel, heights, colour in (
            (panels[0, column], quartiles[1], "#0072B2"),
            (panels[1, column], sizes, "#D55E00"),
        ):
            panel.loglog(values, heights, "-", color=colour, linewidth=1.6)
            filled = [colour if point != BASE else "white" for point in points]
            panel.scatter(values, heights, s=34, c=filled, edgecolors=colour, zorder=3)
            panel.set_xticks(values, [str(value) for value in values])
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.minorticks_off()
            panel.grid(color="#e4e4e4")
            panel.set_axisbelow(True)
            panel.spines[["top", "right"]].set_visible(False)
        panels[0, column].fill_between(values, quartiles[0], quartiles[2], color="#0072B2", alpha=0.25)
        panels[1, column].set_xlabel(LABELS[axis])
    panels[0, 0].set_ylabel("seconds a step")
    panels[1, 0].set_ylabel("MiB of a step")
    figure.suptitle(
        f"A training step around D {BASE.width}, {BASE.side}x{BASE.side} grids, {BASE.demos} demos, batch "
        f"{BASE.rows} (hollow); median, band of the quartiles",
        fontsize=11,
    )
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()
