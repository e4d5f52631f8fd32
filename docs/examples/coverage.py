"""The picture of docs/coverage.md: one step of a small model, row by row, and what its curves look like.

    python docs/examples/coverage.py --out docs/figures/coverage.png

Two runs from the same start and on the same batches: one in which all samples train the encoder, and one in which all
but one come out of it detached, as a cache of contexts leaves them. Takes seconds; the same bytes each time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diagnostics import Absent, ModuleRecord, Monitor, StepRecord
from etrm.atomic_files import write_atomically
from reports.plots.figures import COLOURS, GREY, fixed_style, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BATCH, WIDTH, CALLS, TRAINED, STEPS, SHOWN = 50, 16, 4, 2, 300, 10
RUNS = {"All 50 rows live": BATCH, "1 of 50 rows live": 1}
SMALLEST = 1e-4  # the lower end of the colours; sizes below it are drawn as it


class Recursion(nn.Module):
    """An encoder, a core called four times, the first two without gradient, and a head."""

    def __init__(self, live: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
        self.core = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.head = nn.Linear(WIDTH, 3)
        self.live = live

    def forward(self, x: Tensor, step: int) -> Tensor:
        """Logits (B, 3); another `live` rows keep their gradient in each step."""
        context = self.encoder(x)
        kept = (torch.arange(len(x)) - step) % len(x) < self.live
        context = torch.where(kept[:, None], context, context.detach())
        state = torch.zeros_like(context)
        for call in range(CALLS):
            with torch.set_grad_enabled(call >= CALLS - TRAINED):
                state = self.core(state + context)
        return self.head(state)


@dataclass(frozen=True)
class Run:
    """What is drawn of one run: step `SHOWN` in full, and of each step the loss and the encoder's coverage."""

    shown: StepRecord
    losses: list[float]
    coverage: list[float]


def run(live: int, steps: int = STEPS) -> Run:
    """Train with so many live rows, on labels that a fixed rule gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, rule = Recursion(live), torch.randn(8, 3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses = []
        with Monitor(model, optimizer, expect_partial=["core"], history=steps) as monitor:
            for step in range(steps):
                x = torch.randn(BATCH, 8)
                with monitor.step(samples=BATCH):
                    loss = nn.functional.cross_entropy(model(x, step), (x @ rule).argmax(1))
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                losses.append(loss.item())
                if step <= SHOWN:
                    shown = monitor.last
        coverage = [float(step.modules["encoder"]["coverage"] or 0.0) for step in monitor.history]
        return Run(shown, losses, coverage)


def draw(runs: dict[str, Run]) -> bytes:
    """The figure as PNG."""
    from matplotlib.figure import Figure

    with fixed_style():
        canvas = Figure(figsize=(10.4, 9.4))
        above, below = canvas.subfigures(2, 1, height_ratios=(1.45, 1))
        maps = above.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.12})
        for axes, (name, one) in zip(maps, runs.items(), strict=True):
            image = _rows(axes, one.shown)
            axes.set_title(name)
        maps[0].set_ylabel("sample of the batch")
        bar = above.colorbar(image, ax=list(maps), fraction=0.05, pad=0.02, format="%.0e")
        bar.set_label(f"largest |gradient| of the row, step {SHOWN}")
        left, right = below.subplots(1, 2)
        for colour, (name, one) in zip(COLOURS, runs.items(), strict=False):
            left.plot(_smooth(one.losses), color=colour, label=name)
            right.plot(one.coverage, color=colour, label=name, linewidth=2)
        left.set(title="Both losses fall", xlabel="step", ylabel="loss, mean of 10 steps")
        left.legend()
        right.set(
            title="Coverage tells them apart",
            xlabel="step",
            ylabel="coverage of the encoder",
            ylim=(-0.03, 1.06),
        )
        return png(canvas)


def _rows(axes: Axes, record: StepRecord) -> Any:
    """A column per call, a line per sample: grey where the row was computed and no gradient came back."""
    from matplotlib.colors import LogNorm

    columns, labels, bounds = [], [], []
    for name in ("encoder", "core", "head"):
        module = record.modules[name]
        bounds.append((len(columns), name, module))
        for number, call in enumerate(module.calls, start=1):
            sizes = torch.zeros(BATCH) if isinstance(call.row_gradients, Absent) else call.row_gradients
            columns.append(torch.where(sizes > 0, sizes.clamp(min=SMALLEST), torch.nan))
            labels.append(str(number))
    image = axes.imshow(
        torch.stack(columns, 1).tolist(),
        aspect="auto",
        interpolation="none",
        cmap="viridis",
        norm=LogNorm(SMALLEST, 0.1),
    )
    axes.set_facecolor("#d9d9d9")
    axes.grid(visible=False)
    axes.set_xticks(range(len(columns)), labels, fontsize=8.5)
    for start, name, module in bounds:
        if start:
            axes.axvline(start - 0.5, color="white", linewidth=4)
        axes.text(
            start + (len(module.calls) - 1) / 2,
            BATCH + 3.5,
            _caption(name, module),
            ha="center",
            va="top",
            fontsize=8.5,
            color=GREY,
            linespacing=1.35,
        )
    return image


def _caption(name: str, module: ModuleRecord) -> str:
    return (
        f"{name}, by call\ncoverage {float(module.coverage or 0):.2f}\nwaste {float(module.waste or 0):.2f}"
        f"\nevenness {float(module.evenness or 0):.2f}"
        f"\n{module.calls_with_gradient} of {module.calls_total} calls"
    )


def _smooth(values: Sequence[float], width: int = 10) -> list[float]:
    return [
        sum(values[max(0, place - width + 1) : place + 1]) / min(width, place + 1)
        for place in range(len(values))
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, type=Path, help="the PNG to write")
    given = parser.parse_args(arguments)
    write_atomically(given.out, draw({name: run(live) for name, live in RUNS.items()}))


if __name__ == "__main__":
    main()
