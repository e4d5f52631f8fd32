"""How far each stage of a training step is from the reference implementation, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etrm.investigation.result import RecordedDeparture, ReferenceResult
from etrm.reference.departure import PipelineStage
from reports.plots.figures import GREY, WIDTH_IN, fixed_style, png

TITLE = "Differences from the reference, stage by stage"
CAPTION = (
    "The largest difference of each stage divided by its limit, on a logarithmic scale. The first stage that departs "
    "is red, and later ones may follow from it. A stage with a dot has no difference above its limit."
)
MOST = 1e6
"""Larger ratios are drawn at this one: a value that is not finite has no ratio."""
FIRST, LATER = "#B3261E", "#E39A95"


def measure_stages(departures: Sequence[RecordedDeparture]) -> dict[PipelineStage, float]:
    """Return the largest difference of each stage that departs, as a multiple of its limit, in the order of stages."""
    found: dict[PipelineStage, float] = {}
    for one in departures:
        ratio = min(MOST, one.size / one.limit if one.limit else MOST)
        found[one.stage] = max(found.get(one.stage, 0.0), ratio)
    return {stage: found[stage] for stage in PipelineStage if stage in found}


def draw_stages(reference: ReferenceResult) -> bytes:
    """Draw a bar per stage as PNG; a stage without a bar equals the reference or was not compared."""
    from matplotlib.figure import Figure as Canvas

    ratios, stages = measure_stages(reference.departures), list(PipelineStage)
    with fixed_style():
        canvas = Canvas(figsize=(WIDTH_IN, 0.9 + 0.27 * len(stages)))
        axes = canvas.subplots()
        axes.set_title(TITLE)
        for place, stage in enumerate(stages):
            if stage in ratios:
                colour = FIRST if stage is reference.stage else LATER
                axes.barh(place, math.log10(max(ratios[stage], 1.0)) + 0.05, color=colour, height=0.62)
            else:
                axes.plot([0], [place], marker="o", markersize=3.5, color=GREY, markeredgewidth=0)
        axes.set_yticks(range(len(stages)), [stage.value for stage in stages])
        axes.set_ylim(len(stages) - 0.4, -0.6)
        top = max(1.0, *(math.ceil(math.log10(max(ratio, 1.0))) for ratio in ratios.values()), 1.0)
        axes.set_xlim(-0.05, top + 0.1)
        axes.set_xticks(range(int(top) + 1), [f"{10**power:g}" for power in range(int(top) + 1)])
        axes.set_xlabel("difference / limit")
        axes.grid(axis="y", visible=False)
        return png(canvas)
