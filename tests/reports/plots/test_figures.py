"""Curves before they are drawn, and figures that must not fail."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etrm.investigation.evidence.figures import Figure, Series
from etrm.investigation.evidence.table import Direction, EvidenceRow, Metric
from etrm.investigation.records import Arm, ControlOutcome, InstrumentCheck, Run, Value
from etrm.investigation.result import SCHEMA_VERSION, ExperimentResult, HypothesisResult, Reproduce, Result
from reports import summary
from reports.pages.site import files, name_arms
from reports.plots import paired
from reports.plots.curves import groups, isolated, spread, y_limits
from reports.plots.figures import draw, shown

FRAME = Figure(key="f", title="Loss", x_label="step", y_label="nats", caption="")
NAN = math.nan


def curve(
    arm: str, seed: int, y: tuple[float, ...], label: str = "loss", x: tuple[float, ...] | None = None
) -> Series:
    return Series(figure="f", arm=arm, seed=seed, label=label, x=x or tuple(range(len(y))), y=y)


def test_the_mean_is_over_seeds_where_every_seed_has_a_value() -> None:
    (group,) = groups(FRAME, [curve("a", 0, (1, 2, NAN, 4)), curve("a", 1, (3, 4, 5))], ["a"])
    assert group.mean[:2] == [(0, 2), (1, 3)]
    assert [x for x, _ in group.mean] == [0, 1, 2]
    assert math.isnan(group.mean[2][1])


def test_the_mean_on_a_logarithmic_axis_is_geometric() -> None:
    log = FRAME.replace(y_log=True)
    (group,) = groups(log, [curve("a", 0, (1, 0)), curve("a", 1, (100, 1))], ["a"])
    assert group.geometric_mean[0] == (0, pytest.approx(10))
    assert math.isnan(group.geometric_mean[1][1])


def test_an_arm_keeps_its_colour_and_labels_have_styles() -> None:
    series = [curve(arm, 0, (1, 2), label) for arm in ("b", "c") for label in ("before", "after")]
    found = groups(FRAME, series, ["a", "b", "c"])
    named = {g.name: (g.colour, g.dash) for g in found}
    assert named == {"b: before": (1, 0), "b: after": (1, 1), "c: before": (2, 0), "c: after": (2, 1)}


def test_one_label_names_the_arms_and_one_curve_an_arm_names_the_labels() -> None:
    assert [g.name for g in groups(FRAME, [curve("a", 0, (1,)), curve("b", 0, (1,))], [])] == ["a", "b"]
    series = [curve("a", 0, (1,), "before"), curve("a", 0, (1,), "after"), curve("b", 0, (1,), "control")]
    found = groups(FRAME, series, ["a", "b"])
    assert [g.name for g in found] == ["before", "after", "control"]
    assert len({g.colour for g in found}) == len({g.dash for g in found}) == 3


def test_points_without_neighbours_are_found() -> None:
    assert isolated([(0, 1), (1, NAN), (2, 3), (3, 4), (4, NAN), (5, 1)]) == [0, 5]
    assert isolated([]) == []


def test_limits_show_reference_lines_and_take_only_a_range_that_can_be_used() -> None:
    lined = FRAME.replace(lines=(("copy", 9.0),))
    low, high = y_limits(lined, [1.0, 2.0])
    assert low < 1 < 9 < high
    assert y_limits(lined.replace(y_range=(0.0, 3.0)), [1.0]) == (0.0, 3.0)
    assert y_limits(lined.replace(y_range=(3.0, 0.0)), [1.0])[1] > 9
    assert y_limits(lined.replace(y_range=(0.0, 3.0), y_log=True), [1.0])[0] > 0


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.01, 0.3))
def test_labels_are_spread_in_their_order(positions: list[float], gap: float) -> None:
    placed = spread(positions, gap)
    assert all(-1e-9 <= p <= 1 + 1e-9 for p in placed)
    order = sorted(range(len(positions)), key=lambda i: (positions[i], i))
    gaps = [placed[b] - placed[a] for a, b in pairwise(order)]
    assert all(g >= min(gap, 1 / max(1, len(positions) - 1)) - 1e-9 for g in gaps)


def test_text_without_a_glyph_is_replaced_and_dollars_are_not_formulas() -> None:
    assert shown("a \u4e00\x07 \U0001f9ff é") == "a ? ? é"
    assert draw(
        FRAME.replace(title=r"$\frac{", lines=(("$x_", 1.0),)), [curve("_a", 0, (1, 2))], []
    ).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "y",
    [(), (NAN,), (1e300, -1e300), (0.0, 0.0), (1e-30, 1e30), (-1.0, 0.0), (5e-324, 1.0), (2.0, 2.0000001)],
    ids=str,
)
@pytest.mark.parametrize("y_log", [False, True])
def test_any_values_can_be_drawn(y: tuple[float, ...], y_log: bool) -> None:
    assert draw(FRAME.replace(y_log=y_log), [curve("a", 0, y)], ["a"]).startswith(b"\x89PNG")


def _run(arm: str, seed: int, **final: float) -> Run:
    return Run(arm=arm, seed=seed, folder="r", steps=1, wall_s=1, state="finished", final=final)


def test_the_legend_has_the_words_of_an_arm() -> None:
    differences = {"a": "half the rate", "b": "unchanged", "c": "unchanged", "d": "x" * 50, "e": ""}
    words = name_arms(
        [Arm(name=name, role="treatment", difference=words) for name, words in differences.items()]
    )
    assert words == {"a": "half the rate"} | {name: name for name in "bcde"}
    found = groups(FRAME, [curve("a", 0, (1,)), curve("b", 0, (1,))], ["a", "b"], words)
    assert [group.name for group in found] == ["half the rate", "b"]


def test_the_paired_plot_shows_what_varies_over_shared_seeds() -> None:
    arms = [Arm(name="t", role="treatment", difference=""), Arm(name="c", role="control", difference="")]
    runs = [
        _run("c", 0, loss=1.0, same=1.0),
        _run("t", 0, loss=2.0, same=1.0),
        _run("t", 1, loss=3.0, same=1.0),
    ]
    names, (panel,) = paired.panels(arms, runs, [])
    assert names == ["c", "t"]
    assert (panel.metric, dict(panel.by_seed)) == ("loss", {0: (1.0, 2.0)})


def test_what_hardly_differs_between_arms_is_left_out_though_seeds_differ() -> None:
    arms = [Arm(name="t", role="treatment", difference=""), Arm(name="c", role="control", difference="")]
    runs = [_run(arm, seed, start=1.0 + seed + 0.001 * (arm == "t")) for arm in "ct" for seed in (0, 1)]
    assert paired.panels(arms, runs, [])[1] == []
    loss = Metric("h4.loss", "loss", Direction.LOWER)
    deciding = loss.row(1.0, threshold="", n="", passed=True, final="start")
    assert [panel.metric for panel in paired.panels(arms, runs, [deciding])[1]] == ["start"]


def test_the_value_of_a_run_that_diverged_is_cut_off() -> None:
    own = (-1.0, 1e9)
    spread = {seed: (1.0, 2.0, 3.0, 4.0, 1e9 if seed else 5.0) for seed in (0, 1)}
    low, high = paired.find_limits(paired.PairedPanel("loss", spread), own)
    assert (low < 1.0, 4.0 <= high < 10.0) == (True, True)
    usual = {0: (1.0, 2.0), 1: (3.0, 9.0)}
    assert paired.find_limits(paired.PairedPanel("loss", usual), own) == own


@pytest.mark.parametrize("arms", [2, 8])
def test_a_few_arms_are_drawn_upright_and_many_as_lines(arms: int) -> None:
    panel = paired.PairedPanel("loss", {seed: tuple(range(seed, seed + arms)) for seed in (0, 1)})
    drawn = paired.draw([f"every learning rate times {n}" for n in range(arms)], [panel])
    assert drawn == paired.draw([f"every learning rate times {n}" for n in range(arms)], [panel])
    assert drawn[:4] == b"\x89PNG"


def test_without_a_control_there_is_no_paired_plot() -> None:
    arms = [
        Arm(name="s", role="subject", difference=""),
        Arm(name="p", role="positive control", difference=""),
    ]
    assert paired.panels(arms, [_run("s", 0, loss=1.0), _run("p", 0, loss=2.0)], []) == ([], [])


NAMES = st.sampled_from(["a", "b", "_c", "$x|`"])
WORDS = st.text(max_size=20)


def some(strategy: st.SearchStrategy[Any], size: int = 3) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=size).map(tuple)


CODES = st.sampled_from(["h2.coverage-lowest", "h4.loss", "any.runs-failed"])
ROWS = st.lists(
    st.builds(
        EvidenceRow,
        code=CODES,
        item=NAMES,
        direction=st.sampled_from([d for d in Direction if d is not Direction.CONTEXT]),
    )
    | st.builds(EvidenceRow, code=CODES, item=NAMES, direction=st.just(Direction.CONTEXT), passed=st.none()),
    max_size=3,
    unique_by=lambda row: (row.code, row.item),
).map(tuple)
WHY = st.tuples(CODES)
SHARED: dict[str, Any] = {
    "arms": some(st.builds(Arm, name=NAMES)),
    "runs": some(
        st.builds(Run, arm=NAMES, seed=st.integers(0, 2), final=st.dictionaries(NAMES, st.from_type(Value)))
    ),
    "evidence": ROWS,
    "codes": WHY,
    "figures": some(st.builds(Figure, key=NAMES), 2),
    "series": some(st.builds(Series, figure=NAMES, arm=NAMES, seed=st.integers(0, 2), label=NAMES)),
}
RESULTS = st.builds(
    Result,
    root_cause=st.none() | NAMES,
    order=some(NAMES),
    hypotheses=st.dictionaries(
        NAMES,
        st.builds(
            HypothesisResult,
            **SHARED,
            controls=some(st.builds(ControlOutcome, codes=WHY)),
            instruments=some(st.builds(InstrumentCheck, code=CODES)),
        ),
        max_size=2,
    ),
    experiments=some(st.builds(ExperimentResult, **SHARED), 1),
    schema_version=st.just(SCHEMA_VERSION),
    baselines=ROWS,
    reproduce=st.builds(
        Reproduce, config=st.dictionaries(WORDS, st.none() | WORDS | st.floats() | st.integers())
    ),
)


@given(RESULTS)
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
def test_no_result_breaks_the_report(result: Result) -> None:
    rendered = files(result)
    assert "index.md" in rendered
    assert files(result) == rendered
    assert summary(result) is not None
