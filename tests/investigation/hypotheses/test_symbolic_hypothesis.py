"""What N1 to N5 share: controls, and scores that are compared seed by seed."""

from __future__ import annotations

import math

import pytest

from etrm.config import load, with_settings
from etrm.investigation.hypotheses.symbolic_hypothesis import (
    compare_scores,
    control_config,
    fault_controls,
    split_by_setting,
    study_config,
)
from etrm.investigation.runs.arms import ArmId
from tests.investigation.planted import DIVERGED, planted

KEY = "held_out_pass_at_1"
CONTROL, TREATMENT = ArmId("n1", "all", role="control"), ArmId("n1", "last", role="treatment")


def test_an_effect_is_the_control_less_the_treatment_of_the_same_seed() -> None:
    found = compare_scores(
        "last", planted(CONTROL, [0.5, 0.3], KEY), planted(TREATMENT, [0.1, 0.2], KEY), KEY, 0.1
    )
    assert (found.control, found.treatment) == pytest.approx((0.4, 0.15))
    assert found.effects == pytest.approx((0.4, 0.1))
    assert found.interval is not None
    assert found.interval.mean == pytest.approx(0.25)


def test_a_run_that_diverged_has_the_worst_score_and_one_that_failed_has_none() -> None:
    control = planted(CONTROL, [0.5, 0.4, 0.3], KEY)
    treatment = planted(TREATMENT, [DIVERGED, None, 0.2], KEY)
    assert compare_scores("last", control, treatment, KEY, 0.1).effects == pytest.approx((0.5, 0.1))
    worse = compare_scores("last", control, treatment, KEY, 0.1, diverged=2.0)
    assert worse.effects == pytest.approx((-1.5, 0.1))


def test_without_a_pair_nothing_is_measured() -> None:
    found = compare_scores("last", planted(CONTROL, [None], KEY), [], KEY, 0.1)
    assert found.effects == ()
    assert math.isnan(found.control)


def test_runs_are_found_by_the_setting_of_their_arm() -> None:
    runs = [*planted(TREATMENT, [0.1], KEY), *planted(CONTROL, [0.2, 0.3], KEY)]
    assert [[run.seed for run in some] for some in split_by_setting(runs, ("all", "last"))] == [[0, 1], [0]]


def test_controls_differ_in_the_fault_alone() -> None:
    healthy, faulty = fault_controls(control_config(guards=4), "predicates-item")
    assert (healthy.positive, faulty.positive) == (False, True)
    assert faulty.config.faults == ("predicates-item",)
    assert with_settings(faulty.config, faults=()) == healthy.config


def test_a_study_has_its_own_length_and_grids() -> None:
    found = study_config(7, 4, ("predicates-item",), guards=3)
    assert (found.train.steps, found.data.max_side, found.model.symbolic.guards) == (7, 4, 3)
    assert found.train.lr == load("symbolic-rules").train.lr
    assert not found.monitor.enabled
