"""Tiers: what a name means, and what reaches the runs."""

from __future__ import annotations

from dataclasses import replace

from etrm.errors import ConfigError
from etrm.evaluation.statistics import FULL_SEEDS
from etrm.investigation.comparison import frozen_arms
from etrm.investigation.hypotheses import h4_training_dynamics as h4
from etrm.investigation.hypotheses import h7_encoder_capacity as h7
from etrm.investigation.runs.budget import SCREENING, TIERS, find
from etrm.investigation.session import Investigation
from tests.errors import raises_code


def test_only_the_screening_has_too_few_seeds_for_a_verdict() -> None:
    assert {name: tier.seeds >= FULL_SEEDS for name, tier in TIERS.items()} == {
        "screening": False,
        "standard": True,
        "full": True,
    }
    assert {tier.short_seeds for tier in TIERS.values()} == {FULL_SEEDS}
    assert {tier.most_seeds for tier in TIERS.values()} == {2 * FULL_SEEDS}
    assert replace(SCREENING, seeds=30).most_seeds == 30
    with raises_code(ConfigError, "investigate.unknown-tier", repr("cheap")):
        find("cheap")


def test_the_steps_of_a_tier_are_those_of_its_runs(investigation: Investigation) -> None:
    assert investigation.tier is SCREENING
    investigation.tier = replace(SCREENING, frozen_steps=7, pretrain_steps=3)
    assert {job.config.train.steps for job in frozen_arms.plan_jobs(investigation, frozen_arms.TRAINED)} == {
        7
    }
    investigation.tier = replace(SCREENING, frozen_steps=7000)
    steps = {job.config.train.steps for job in frozen_arms.plan_jobs(investigation, frozen_arms.TRAINED)}
    assert steps == {investigation.subject.train.steps}


def test_the_short_runs_have_their_own_seeds_and_those_of_every_arm_by_default(
    investigation: Investigation,
) -> None:
    assert investigation.short_seeds == investigation.seeds == (0,)
    more = replace(investigation, short_seeds=(4, 5))
    assert h7.ladder_seeds(more) == (4, 5, 6, 7)
    for hypothesis in (h4.HYPOTHESIS, h7.HYPOTHESIS):
        given = [job for job in hypothesis.screens(more)[0].jobs() if job.arm.name == "few-as-given"]
        assert [job.seed for job in given] == [4, 5]
