"""Longer runs of the unchanged config: their steps, how much they use their contexts, and what they show."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from etrm.config import load
from etrm.investigation.comparison.longer_runs import Later, LaterRuns, measure_use, with_longer_runs
from etrm.investigation.comparison.paired_contrast import compare_losses
from etrm.investigation.comparison.screening import Screen
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.runs.arms import ArmId
from tests.investigation.planted import planted


def test_the_use_of_contexts_is_read_from_the_runs() -> None:
    arm = ArmId("few", "longer", role="treatment")
    [run] = planted(arm, [0.5])
    both = replace(run, record=run.record.replace(final={"loss_end": 0.5, "loss_end_foreign_demos": 1.75}))
    assert measure_use([both, run]) == 1.25
    assert math.isnan(measure_use([run]))


def test_the_longer_runs_have_three_times_the_steps() -> None:
    screen = with_longer_runs(Screen(load("small"), (), (0,)))
    steps = {job.arm.setting: job.config.train.steps for job in screen.jobs()}
    assert steps["longer"] == 3 * steps["as-given"]


def test_they_may_have_seeds_of_their_own() -> None:
    screen = with_longer_runs(Screen(load("small"), (), (0,)), (0, 1))
    assert [job.seed for job in screen.jobs() if job.arm.setting == "longer"] == [0, 1]


BEHIND = [(0.8, 0.5), (0.9, 0.55), (0.7, 0.45)]
REACHED = [(0.4, 0.5), (0.5, 0.55), (0.4, 0.45)]
OPEN = [(0.4, 0.5), (0.9, 0.55), (0.7, 0.45)]


@pytest.mark.parametrize(
    ("losses", "use", "use_of_change", "outcome"),
    [
        (BEHIND, 1.2, 1.2, Later.BEHIND),
        (BEHIND, 0.0, 1.2, Later.BEHIND),
        (REACHED, 0.0, 1.2, Later.WITHOUT_CONTEXTS),
        (OPEN, 0.0, 1.2, Later.WITHOUT_CONTEXTS),
        (REACHED, 0.7, 1.2, Later.REACHES),
        (REACHED, math.nan, math.nan, Later.REACHES),
        (REACHED, 0.0, 0.0, Later.REACHES),
        (OPEN, 0.7, 1.2, Later.UNDECIDED),
        (REACHED[:1], 0.7, 1.2, Later.NOT_COMPARED),
    ],
)
def test_what_is_learnt_later_must_be_learnt_from_the_contexts(
    losses: list[tuple[float, float]], use: float, use_of_change: float, outcome: Later
) -> None:
    later = LaterRuns(compare_losses("change", losses, 0.25), use, use_of_change)
    assert later.outcome is outcome
    rows = later.rows(Metric("a.loss", "", Direction.LOWER), Metric("a.use", "", Direction.HIGHER))
    assert rows[0].effect is None  # whether an effect matters does not decide it
    assert [row.code for row in rows] == ["a.loss", *([] if math.isnan(use) else ["a.use"])]
