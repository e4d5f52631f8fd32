"""The analysis of known answers: equal to the reference, and planted changes are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from etrm.config import load, with_settings
from etrm.investigation.reference_comparison.known_steps import compare_known_steps
from etrm.reference.departure import PipelineStage
from etrm.training.scoring import run_analysis, step_trace
from tests.reference.training.test_step import config_of


def test_healthy_scores_of_steps_depart_nowhere() -> None:
    assert compare_known_steps(config_of()) == []
    rules = with_settings(load("rules"), evaluate={"max_tasks": 1})
    assert compare_known_steps(rules) == []


def choose_on_own_half(exact: np.ndarray) -> np.ndarray:
    return np.array([exact[:, row % 2 :: 2].sum(1).argmax() for row in range(exact.shape[1])])


CHANGES: dict[str, tuple[Any, str, Callable[..., Any], set[str]]] = {
    "own half": (run_analysis, "_choose_fixed_steps", choose_on_own_half, {"read at best-fixed"}),
    "region": (
        step_trace,
        "is_right",
        lambda sample, tokens: step_trace.share_right(sample, tokens) == 1,
        {"step 3", "read at any", "read at halting"},
    ),
    "halting": (
        step_trace.StepTrace,
        "halting_step",
        lambda trace: trace.q_halt.argmax(0),
        {"read at halting"},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_scores_of_steps_are_the_score(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, name, changed, wheres = CHANGES[change]
    monkeypatch.setattr(place, name, changed)
    found = compare_known_steps(config_of())
    assert {one.stage for one in found} == {PipelineStage.SCORE}
    assert {one.where.removesuffix(", known answers") for one in found} == wheres
