from __future__ import annotations

from etrm.config import load, with_settings
from etrm.investigation.hypotheses import predicate_controls
from etrm.investigation.hypotheses.h2_encoder_gradients import STATEMENT
from etrm.investigation.measurements.encoder_gradients import gather
from etrm.training.faults import FAULTS
from etrm.training.trainer import Trainer


def test_only_a_run_that_learns_predicates_has_them() -> None:
    fixed = with_settings(load("symbolic-rules"), model={"symbolic": {"families": ("original",)}})
    for subject in (load("smoke"), fixed):
        assert predicate_controls.list_controls(subject) == []
        assert predicate_controls.plan_jobs("h2", subject, 3) == []
        assert predicate_controls.describe_arms("h2", subject) == ()


def test_each_control_is_told_by_its_steps() -> None:
    subject = load("symbolic-rules")
    jobs = predicate_controls.plan_jobs("h2", subject, 3)
    arms = predicate_controls.describe_arms("h2", subject)
    assert [(job.arm.name, job.arm.role, job.config.faults) for job in jobs] == [
        (arm.name, arm.role, arm.faults) for arm in arms
    ]
    for job in jobs:
        trainer = Trainer(job.config)
        steps = [trainer.train_step() for _ in range(job.config.train.steps)]
        assert len(steps) == 3
        assert gather(steps, predicates=True).holds == (job.arm.role == "positive control")
        assert {FAULTS[name].root_cause for name in job.config.faults} <= {STATEMENT.id}
