from __future__ import annotations

import math

import pytest

from etrm.evaluation.learning_stage import SolvedCount
from etrm.training.scoring.run_analysis import (
    AttemptScore,
    NamedScore,
    RunAnalysis,
    StepScore,
    VoteScore,
)
from reports.pages.analysis_page import analysis_page, format_count, list_drawn, make_series


def count(solved: int) -> SolvedCount:
    return SolvedCount(solved, 40)


def named(code: str, solved: int, high: float | None = None) -> NamedScore:
    return NamedScore(code, count(solved), 3, 4, 0.5, -0.125, None if high is None else -0.25, high)


def analysis(steps: int = 2, moved: float = 0.25, high: float | None = -0.01) -> RunAnalysis:
    return RunAnalysis(
        step=7,
        seen=False,
        steps=tuple(StepScore(i + 1, count(30), 0.125, moved, 0.5) for i in range(steps)),
        readouts=(named("halting", 31),),
        votes=(VoteScore(1, count(20), count(25)), VoteScore(2, count(21), count(26))),
        attempts=(AttemptScore(1, count(33), count(21)),),
        ablations=(named("swapped", 1, high), named("demos-2", 12)),
        noise=(named("0.3:agreement", 29),) if steps > 1 else (),
    )


def test_the_page_has_every_table_and_its_numbers() -> None:
    text = analysis_page("runs/x", analysis(), {"steps": "![s](figures/steps.png)"})
    for part in (
        "30 of 40",
        "31 of 40",
        "33 of 40",
        "1 of 40",
        "12.5%",
        "0.2500",
        "29 of 40",
        "figures/steps.png",
    ):
        assert part in text
    assert "the first 2 demonstrations" in text
    assert "the commonest of five" in text


def test_a_run_of_an_odd_name_stays_a_name() -> None:
    assert "``a`*b*``" in analysis_page("a`*b*", analysis(), {})


@pytest.mark.parametrize(("high", "used"), [(-0.01, True), (0.01, False), (None, False)])
def test_a_context_is_called_used_only_where_the_interval_is_below_zero(
    high: float | None, used: bool
) -> None:
    text = analysis_page("runs/x", analysis(high=high), {})
    assert ("so the model uses it" in text) is used
    assert ("no loss beyond chance" in text) is not used


def test_a_model_of_one_step_without_a_latent_state() -> None:
    found = analysis(steps=1, moved=math.nan)
    assert "no state between steps" in analysis_page("runs/x", found, {})
    assert [figure.key for figure in list_drawn(found)] == ["votes"]
    assert "latent state" not in [series.arm for series in make_series(found)]


def test_curves_are_the_shares() -> None:
    curves = {series.arm: (series.x, series.y) for series in make_series(analysis())}
    assert curves["pass@2"] == ((1.0, 2.0), (0.625, 0.65))
    assert curves["right answers"] == ((1.0, 2.0), (0.75, 0.75))


def test_a_count_has_its_exact_interval() -> None:
    assert format_count(SolvedCount(0, 4)) == ["0 of 4", "0.0% to 60.2%"]
