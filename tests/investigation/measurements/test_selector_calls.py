"""The calls of the selector against counts that follow from its settings."""

from __future__ import annotations

from typing import Any

import pytest

from etrm.config import Config, load, with_settings
from etrm.investigation.measurements.selector_calls import STEPS, watch_selector


def encoded(**symbolic: Any) -> Config:
    changes: Any = {"data": {"max_tasks": 8, "max_side": 3}, "train": {"batch_size": 4, "threads": 1}}
    small = {"selector": "demos", "hidden_size": 8, "guards": 2, "width": 4}
    return with_settings(load("symbolic-rules"), model={"symbolic": small | symbolic}, **changes)


@pytest.mark.parametrize("cycles", [1, 2, 3])
def test_both_refiners_are_called_in_every_cycle_and_the_encoder_once(cycles: int) -> None:
    found = watch_selector(encoded(cycles=cycles))
    assert (found.refiners.calls, found.refiners.enabled, found.refiners.reached) == (2 * cycles,) * 3
    assert (found.encoder.calls, found.encoder.reached) == (1, 1)
    assert found.encoder.coverage == found.refiners.coverage == 1


@pytest.mark.parametrize(("inject", "reached"), [("start", 0), ("every_cycle", 1)])
def test_with_the_last_cycle_alone_the_encoder_has_a_gradient_by_injection_only(
    inject: str, reached: int
) -> None:
    found = watch_selector(encoded(cycle_grad="last", inject=inject))
    assert (found.refiners.calls, found.refiners.enabled, found.refiners.reached) == (6, 2, 2)
    assert (found.encoder.reached, found.encoder.coverage) == (reached, reached)


def test_the_coverage_counts_samples_and_not_demonstrations() -> None:
    found = watch_selector(with_settings(encoded(), train={"accumulate": 2}))
    assert found.encoder.coverage == 1
    assert STEPS > 1
