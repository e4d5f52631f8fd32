"""The paired plot: final values of arms that share seeds, with one line per seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etrm.investigation.evidence.table import EvidenceRow
from etrm.investigation.records import Arm, NotMeasured, Run
from reports.plots.curves import LARGEST
from reports.plots.figures import COLOURS, GREY, WIDTH_IN, fixed_style, png, shown
from reports.words import name_final_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

PANELS = 6  # two rows of three still have readable labels on a page
HARDLY = 0.02  # share of a value; less cannot be seen next to the difference between seeds
FAR = 20.0  # times the range of most values, as of a run that diverged
UPRIGHT = 3  # arms whose labels fit side by side
CAPTION = (
    "Final values of the arms: a thin line per seed, and their mean in bold. If all lines lean the same way, the "
    "effect does not depend on the seed. Quantities that decide nothing and hardly differ between the arms are left "
    "out, and values far from all others are cut off."
)

THIN: dict[str, Any] = {
    "color": GREY, "linewidth": 0.9, "alpha": 0.7, "marker": "o", "markersize": 3, "markeredgewidth": 0,
}  # fmt: skip
BOLD: dict[str, Any] = {
    "color": COLOURS[0], "linewidth": 2.3, "marker": "o", "markersize": 5.5, "markeredgewidth": 0,
}  # fmt: skip


@dataclass(frozen=True)
class PairedPanel:
    """One final value, by its key, with its values in all arms for each seed."""

    metric: str
    by_seed: Mapping[int, tuple[float, ...]]


def compared(arms: Sequence[Arm]) -> list[str]:
    """Return the names of the arms in a paired plot, controls first; none if there is no control or no treatment."""
    controls = [arm.name for arm in arms if arm.role == "control"]
    others = [arm.name for arm in arms if arm.role in ("treatment", "subject")]
    return controls + others if controls and others else []


def panels(
    arms: Sequence[Arm], runs: Sequence[Run], evidence: Sequence[EvidenceRow]
) -> tuple[list[str], list[PairedPanel]]:
    """Return the arms to show, and up to six metrics that vary. Metrics that decide something come first."""
    names = [name for name in compared(arms) if any(run.arm == name for run in runs)]
    sides = {arm.role == "control" for arm in arms if arm.name in names}
    if len(sides) < 2:
        return [], []
    finals = {(run.arm, run.seed): run.final for run in runs}
    seeds = sorted({seed for _, seed in finals})
    complete = [seed for seed in seeds if all((name, seed) in finals for name in names)]
    metrics = sorted({key for seed in complete for key in finals[names[0], seed]})
    deciding = [row.final for row in evidence if row.passed is not None]
    metrics.sort(key=lambda m: (deciding.index(m) if m in deciding else len(deciding), m))
    found = [
        _panel(metric, names, complete, finals, 0.0 if metric in deciding else HARDLY) for metric in metrics
    ]
    return names, [panel for panel in found if panel is not None][:PANELS]


def _panel(
    metric: str,
    names: Sequence[str],
    seeds: Sequence[int],
    finals: Mapping[tuple[str, int], Mapping[str, float | NotMeasured]],
    hardly: float,
) -> PairedPanel | None:
    by_seed = {}
    for seed in seeds:
        values = [finals[name, seed].get(metric) for name in names]
        kept = tuple(v for v in values if isinstance(v, float | int) and abs(v) <= LARGEST)
        if len(kept) == len(names):
            by_seed[seed] = kept
    varies = any(max(values) - min(values) > hardly * abs(values[0]) for values in by_seed.values())
    return PairedPanel(metric, by_seed) if varies else None


def draw(names: Sequence[str], found: Sequence[PairedPanel]) -> bytes:
    """Draw one panel per metric; ``names`` are the labels of the arms, in the order of the panels' values.

    A few arms are side by side. More have a line each, one below the other, with room for their words.
    """
    from matplotlib.figure import Figure as Canvas

    upright = len(names) <= UPRIGHT
    columns = min(3 if upright else 2, len(found))
    rows = -(-len(found) // columns)
    height = 2.5 if upright else 0.7 + 0.36 * len(names)
    with fixed_style():
        canvas = Canvas(
            figsize=(max(4.2, WIDTH_IN * columns / 3) if upright else WIDTH_IN, 0.4 + height * rows)
        )
        for i, panel in enumerate(found):
            axes = canvas.add_subplot(rows, columns, i + 1)
            if upright:
                _draw_upright(axes, names, panel)
            else:
                _draw_lines(axes, names if i % columns == 0 else [""] * len(names), panel)
        return png(canvas)


def _draw_upright(axes: Axes, names: Sequence[str], panel: PairedPanel) -> None:
    x = range(len(names))
    for values, style in _lines(panel):
        axes.plot(x, values, **style)
    axes.set_xticks(list(x), [shown(name, 14, lines=3) for name in names], fontsize=9)
    axes.set_xlim(-0.35, len(names) - 0.65)
    _label(axes, panel, axes.yaxis)
    axes.set_ylim(*find_limits(panel, axes.get_ylim()))
    axes.grid(axis="x", visible=False)


def _draw_lines(axes: Axes, names: Sequence[str], panel: PairedPanel) -> None:
    y = range(len(names))
    for values, style in _lines(panel):
        axes.plot(values, y, **style)
    axes.set_yticks(list(y), [shown(name, 34, lines=2) for name in names], fontsize=9)
    axes.set_ylim(len(names) - 0.65, -0.35)
    _label(axes, panel, axes.xaxis)
    axes.set_xlim(*find_limits(panel, axes.get_xlim()))
    axes.grid(axis="y", visible=False)


def _lines(panel: PairedPanel) -> list[tuple[Sequence[float], dict[str, Any]]]:
    """Return the values of each seed and their mean, with their styles."""
    seeds = [(values, THIN) for values in panel.by_seed.values()]
    means = [sum(column) / len(column) for column in zip(*panel.by_seed.values(), strict=True)]
    return [*seeds, (means, BOLD)]


def find_limits(panel: PairedPanel, own: tuple[float, float]) -> tuple[float, float]:
    """Return the limits of the axis of values: its own ones, or those of most values if a few are far from them.

    Args:
        panel: the values.
        own: the limits that hold every value.
    """
    values = sorted(value for seed in panel.by_seed.values() for value in seed)
    cut = len(values) // 5
    low, high = values[0], values[len(values) - 1 - cut]
    if values[-1] - low <= FAR * (high - low) or high == low:
        return own
    pad = 0.06 * (high - low)
    return low - pad, high + pad


def _label(axes: Axes, panel: PairedPanel, axis: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_title(shown(name_final_value(panel.metric), 26), fontsize=9.5)
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
