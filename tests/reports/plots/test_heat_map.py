"""Heat maps: means over seeds in the right cells, and a gap where there is no value."""

from __future__ import annotations

import math

import numpy as np
import pytest

from etrm.investigation.evidence.figures import Figure, Series
from reports.plots.heat_map import draw_heat_map, make_grid

FIGURE = Figure(
    key="map", kind="heat map", title="Title", x_label="step", y_label="norm", caption="", y_log=True
)


def row(label: str, seed: int, x: tuple[float, ...], y: tuple[float, ...], figure: str = "map") -> Series:
    return Series(figure=figure, arm="subject", seed=seed, label=label, x=x, y=y)


def test_a_cell_is_the_mean_over_the_seeds_that_have_a_value() -> None:
    series = [
        row("encoder", 0, (1, 2, 4), (1.0, math.nan, 5.0)),
        row("encoder", 1, (1, 2, 4), (3.0, math.nan, math.nan)),
        row("core", 0, (2,), (7.0,)),
        row("other", 0, (9,), (1.0,), figure="elsewhere"),
    ]
    names, steps, grid = make_grid(FIGURE, series)
    assert (names, steps) == (["encoder", "core"], [1, 2, 4])
    np.testing.assert_array_equal(grid, [[2.0, np.nan, 5.0], [np.nan, 7.0, np.nan]])


@pytest.mark.parametrize("values", [(0.0, 1.0), (2.0, 2.0), (math.nan, math.nan), (-1.0, 4.0)])
@pytest.mark.parametrize("log", [True, False])
def test_any_values_are_drawn(values: tuple[float, float], log: bool) -> None:
    figure = FIGURE.replace(y_log=log)
    assert draw_heat_map(figure, [row("encoder", 0, (1, 2), values)]).startswith(b"\x89PNG")


def test_a_map_without_series_is_drawn() -> None:
    assert draw_heat_map(FIGURE, []).startswith(b"\x89PNG")
