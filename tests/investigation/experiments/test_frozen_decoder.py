"""The scenarios of the frozen-decoder experiment, on planted numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etrm.investigation.comparison.frozen_arms import SMALLEST_EFFECT
from etrm.investigation.comparison.paired_contrast import Contrast, compare_losses
from etrm.investigation.experiments import frozen_decoder
from etrm.investigation.experiments.frozen_decoder import FrozenReason
from etrm.investigation.measurements.encoder_gradients import gather
from etrm.investigation.result import Scenario
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.loaded_run import LoadedRun
from tests.investigation.planted import planted

CLEAR = [0.30, 0.32, 0.31]
NOTHING = [0.001, -0.002, 0.001]
UNCLEAR = [0.4, -0.2, 0.1]
LEARNS = "A: learns-from-demonstrations"
USELESS = "C: useless-though-demonstrations-are-used"
FEW_TASKS = "none: too-few-held-out-tasks"


def contrast(differences: list[float]) -> Contrast:
    return compare_losses("an arm", [(1.0, 1.0 - d) for d in differences], SMALLEST_EFFECT)


def runs(solved: float, low: float, asked: float = 77.0) -> list[LoadedRun]:
    final: dict[str, Any] = {"held_out_solved": solved, "held_out_asked": asked, "held_out_low": low}
    records = [run.record.replace(final=final) for run in planted(ArmId("a"), [1.0] * 3)]
    return [LoadedRun(ArmId("a"), record, Path()) for record in records]


def scenario(
    start: list[float],
    blind: list[float],
    *,
    solved: float = 0,
    low: float = 0.0,
    asked: float = 77.0,
    stuck: bool = False,
    foreign: Sequence[float] = (0.30, 0.32, 0.31),
    failed: Sequence[LoadedRun] = (),
) -> str:
    """The scenario and why: ``A: learns-from-demonstrations``, say."""
    found, code, sentence = frozen_decoder._name_scenario(
        stuck=stuck,
        words="the encoder does not move on 9 of 9 steps",
        failed=failed,
        contrasts=[contrast(start), contrast(blind), contrast(list(foreign))],
        trained=runs(solved, low, asked),
        baseline=0.01,
    )
    assert sentence
    return f"{found}: {code.removeprefix('frozen.')}"


def test_learning_needs_gradient_loss_and_a_held_out_score() -> None:
    assert scenario(CLEAR, CLEAR, solved=20, low=0.17) == LEARNS


@pytest.mark.parametrize(("solved", "low"), [(0, 0.0), (1, 0.0003)])
def test_without_a_held_out_score_it_is_useless(solved: float, low: float) -> None:
    assert scenario(CLEAR, CLEAR, solved=solved, low=low) == USELESS


def test_no_better_than_foreign_demos_is_useless_whatever_it_solves() -> None:
    assert scenario(CLEAR, NOTHING, solved=20, low=0.17) == USELESS


@pytest.mark.parametrize("solved", [0, 4])
def test_few_tasks_say_nothing_of_generalisation(solved: float) -> None:
    assert scenario(CLEAR, CLEAR, solved=solved, low=0.4 * (solved > 0), asked=4) == FEW_TASKS
    assert scenario(CLEAR, NOTHING, solved=solved, asked=4) == USELESS
    assert scenario(CLEAR, CLEAR, solved=20, low=0.4, asked=32) == LEARNS


def test_a_loss_that_does_not_fall_is_stuck() -> None:
    assert scenario(NOTHING, NOTHING) == "B: loss-does-not-fall"


def test_an_encoder_that_does_not_move_is_stuck_whatever_the_loss() -> None:
    assert scenario(CLEAR, CLEAR, solved=20, low=0.17, stuck=True) == "B: no-gradient-or-no-movement"


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_one_step_without_gradient_or_movement_fails_its_row(value: float) -> None:
    steps = [
        {"loss": 1.0, "encoder.coverage": 1.0, "encoder.grad_norm_pre_clip": one, "encoder.moved": one}
        for one in (0.5, value, 0.5)
    ]
    rows = frozen_decoder._make_training_rows([], gather(steps))[:2]
    assert [(row.treatment, row.passed) for row in rows] == [(value, value > 0)] * 2


def test_wide_intervals_decide_nothing() -> None:
    assert scenario(UNCLEAR, CLEAR) == "none: loss-undecided"
    assert scenario(CLEAR, UNCLEAR, solved=20, low=0.17) == "none: use-of-demonstrations-undecided"


def test_what_is_useless_tells_whether_the_demonstrations_are_used() -> None:
    assert scenario(CLEAR, CLEAR, foreign=NOTHING) == "C: useless-and-demonstrations-unused"


def test_runs_that_failed_are_never_left_out_of_a_verdict() -> None:
    failed = planted(ArmId("a"), [math.inf])
    assert scenario(CLEAR, CLEAR, solved=20, low=0.17, failed=failed) == "none: some-runs-failed"
    assert scenario(NOTHING, NOTHING, failed=failed) == "B: loss-does-not-fall"


def test_nothing_that_could_train_is_stuck() -> None:
    one = runs(0, 0)[0]
    failed = replace(one, record=one.record.replace(state="failed", reason="nothing requires a gradient"))
    found, code, sentence = frozen_decoder._name_scenario(
        stuck=True, words="", failed=[failed], contrasts=[], trained=[], baseline=0.0
    )
    assert (found, code) == (Scenario.STUCK, FrozenReason.NOTHING_TRAINED)
    assert failed.reason in sentence
