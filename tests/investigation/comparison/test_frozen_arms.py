"""The arms with a frozen decoder are trained together where both are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from etrm.config import with_settings
from etrm.investigation.comparison.frozen_arms import (
    BLIND,
    TRAINED,
    TRAINED_LONGER,
    train_longer,
    train_with_frozen_decoder,
)
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.jobs import Job
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.investigation.session import Investigation
from tests.investigation.planted import planted


@pytest.mark.parametrize("follows", [True, False])
def test_the_other_arm_is_made_with_the_first_where_the_experiment_follows(
    investigation: Investigation, monkeypatch: pytest.MonkeyPatch, follows: bool
) -> None:
    requested: list[ArmId] = []

    def run(phase: str, jobs: Sequence[Job]) -> list[LoadedRun]:
        requested.extend(job.arm for job in jobs)
        return [planted(job.arm, [1.0])[0] for job in jobs]

    monkeypatch.setattr(investigation, "run", run)
    investigation.frozen_decoder = follows
    investigation.seeds = (0, 1)
    found = train_with_frozen_decoder(investigation, "H3")
    assert [run.arm for run in found] == [TRAINED] * 2
    assert requested == [TRAINED] * 2 + [BLIND] * 2 * follows


@pytest.mark.parametrize(("tier_steps", "expected"), [(4, 12), (50, 50)])
def test_the_longer_runs_have_three_times_the_steps_or_those_of_the_tier(
    investigation: Investigation, monkeypatch: pytest.MonkeyPatch, tier_steps: int, expected: int
) -> None:
    jobs: list[Job] = []

    def run(phase: str, requested: Sequence[Job]) -> list[LoadedRun]:
        jobs.extend(requested)
        return []

    monkeypatch.setattr(investigation, "run", run)
    investigation.tier = replace(investigation.tier, frozen_steps=tier_steps)
    investigation.subject = with_settings(investigation.subject, train={"steps": 5, "warmup_steps": 1})
    train_longer(investigation, "H3")
    assert {job.arm for job in jobs} == {TRAINED_LONGER}
    train = jobs[0].config.train
    assert (train.steps, train.freeze_decoder_steps, train.freeze_encoder_steps) == (expected, expected, 0)
