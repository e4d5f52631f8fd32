"""Longer runs of the unchanged config: their steps, and how much they use their contexts."""

from __future__ import annotations

import math
from dataclasses import replace

from etrm.config import load
from etrm.investigation.comparison.longer_runs import measure_use, with_longer_runs
from etrm.investigation.comparison.screening import Screen
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
