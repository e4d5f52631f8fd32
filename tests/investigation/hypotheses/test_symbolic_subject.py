"""The symbolic solver as the run under test: healthy it passes, and the faults of gradients and context are seen."""

from __future__ import annotations

from typing import Any

import pytest

from etrm.config import Config, load, with_settings
from etrm.investigation.comparison.gradient_check import check_slope
from etrm.investigation.measurements.context_path import trace_context


def rules(**settings: Any) -> Config:
    small = {"data": {"max_tasks": 60}, "train": {"batch_size": 8, "threads": 1}}
    return with_settings(with_settings(load("symbolic-rules"), **small), **settings)


@pytest.mark.parametrize("selection", ["soft", "straight_through"])
def test_the_gradient_of_the_selector_is_the_slope_of_the_loss(selection: str) -> None:
    found = check_slope(rules(model={"symbolic": {"selection": selection}}))
    assert found is not None
    assert found.frozen == 0
    if selection == "soft":  # the other one has the slope of its expectation
        assert found.ratio == pytest.approx(1, abs=0.05)


def test_hard_selection_lets_no_gradient_pass() -> None:
    found = check_slope(rules(model={"symbolic": {"selection": "hard"}}))
    assert found is not None
    assert found.holds


def test_a_healthy_context_passes() -> None:
    seen = trace_context(rules())
    assert not seen.holds, seen.reasons
    assert seen.shape == seen.wanted_shape == (1, 3520)
    assert seen.used > 0.1


@pytest.mark.parametrize("fault", ["context-scale", "context-nan", "context-ignored", "context-collapsed"])
def test_a_context_that_changes_on_its_way_is_seen(fault: str) -> None:
    assert trace_context(rules(faults=(fault,))).holds


def test_a_selector_that_sees_the_query_alone_reads_no_demonstration() -> None:
    demos: dict[str, Any] = {"model": {"symbolic": {"selector": "demos", "hidden_size": 16}}}
    assert not trace_context(rules(**demos)).holds
    demos["model"]["symbolic"]["selector"] = "input"
    assert trace_context(rules(**demos)).unused
