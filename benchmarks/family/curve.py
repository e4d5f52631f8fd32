"""Draw the held-out curve of a training on the rule family: all tasks, and those of each combination of parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.family.device_episodes import NAMES
from reports.plots.figures import COLOURS, GREY, fixed_style, png


def draw_curve(lines: Sequence[dict[str, Any]]) -> bytes:
    """Return a PNG of the shares of held-out tasks that the averaged weights solve, over millions of episodes.

    Args:
        lines: the lines of one arm; those without an evaluation are left out.
    """
    from matplotlib.figure import Figure

    points = [line for line in lines if "ema" in line]
    episodes = [line["episodes"] / 1e6 for line in points]
    with fixed_style():
        canvas = Figure(figsize=(8.4, 5.4))
        axes = canvas.add_subplot()
        for number, name in enumerate(NAMES):
            axes.plot(
                episodes,
                [line["ema"]["by_kind"][name] for line in points],
                color=COLOURS[number % len(COLOURS)],
                linestyle="-" if number < len(COLOURS) else "--",
                linewidth=1.1,
                label=name.replace("+", " + "),
            )
        axes.plot(
            episodes,
            [line["ema"]["solved"] for line in points],
            color="black",
            linewidth=2.6,
            label="all held-out tasks",
        )
        axes.set(
            ylim=(-0.02, 1.02),
            xlabel="training tasks seen (millions)",
            ylabel="held-out tasks solved by the encoder alone",
            title="Held-out rules of the family, by the parts of the rule",
        )
        axes.yaxis.set_major_formatter(lambda value, place: f"{100 * value:g} %")
        axes.tick_params(colors=GREY)
        canvas.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return png(canvas)
