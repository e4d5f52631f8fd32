"""The paired plot: final values of arms that share seeds, with one line per seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etrm.investigation.evidence.table import EvidenceRow
from etrm.investigation.records import Arm, NotMeasured, Run
from reports.plots.curves import LARGEST
from reports.plots.figures import COLOURS, GREY, WIDTH_IN, fixed_style, png, shown
from reports.words import name_final_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 6  # two rows of three still have readable labels on a page
CAPTION = (
    "Final values of the arms: a thin line per seed, and their mean in bold. If all lines go up or all go down, the "
    "effect does not depend on the seed. Values that are equal in all runs are left out."
)


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
    found = [_panel(metric, names, complete, finals) for metric in metrics]
    return names, [panel for panel in found if panel is not None][:PANELS]


def _panel(
    metric: str,
    names: Sequence[str],
    seeds: Sequence[int],
    finals: Mapping[tuple[str, int], Mapping[str, float | NotMeasured]],
) -> PairedPanel | None:
    by_seed = {}
    for seed in seeds:
        values = [finals[name, seed].get(metric) for name in names]
        kept = tuple(v for v in values if isinstance(v, float | int) and abs(v) <= LARGEST)
        if len(kept) == len(names):
            by_seed[seed] = kept
    varies = len({v for values in by_seed.values() for v in values}) > 1
    return PairedPanel(metric, by_seed) if varies else None


def draw(names: Sequence[str], found: Sequence[PairedPanel]) -> bytes:
    """Draw one panel per metric; ``names`` are the labels of the arms, in the order of the panels' values."""
    from matplotlib.figure import Figure as Canvas

    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    with fixed_style():
        canvas = Canvas(figsize=(max(4.2, WIDTH_IN * columns / 3), 0.4 + 2.5 * rows))
        for i, panel in enumerate(found):
            _draw_panel(canvas.add_subplot(rows, columns, i + 1), names, panel)
        return png(canvas)


def _draw_panel(axes: Axes, names: Sequence[str], panel: PairedPanel) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    x = range(len(names))
    for values in panel.by_seed.values():
        axes.plot(
            x, values, color=GREY, linewidth=0.9, alpha=0.7, marker="o", markersize=3, markeredgewidth=0
        )
    means = [sum(column) / len(column) for column in zip(*panel.by_seed.values(), strict=True)]
    axes.plot(x, means, color=COLOURS[0], linewidth=2.3, marker="o", markersize=5.5, markeredgewidth=0)
    axes.set_title(shown(name_final_value(panel.metric), 26), fontsize=9.5)
    axes.set_xticks(list(x), [shown(name, 14, lines=3) for name in names], fontsize=9)
    if len(names) > 3:  # horizontal labels would overlap
        axes.tick_params(axis="x", labelrotation=90)
    axes.set_xlim(-0.35, len(names) - 0.65)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.6g}"))
    axes.grid(axis="x", visible=False)
