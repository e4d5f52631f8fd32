from __future__ import annotations

import pytest

from etrm.investigation.hypotheses import h2_encoder_gradients as h2
from etrm.investigation.hypotheses import h3_context_interface as h3
from etrm.investigation.hypotheses import symbolic_controls
from etrm.investigation.measurements.context_path import trace_context
from etrm.investigation.measurements.encoder_gradients import gather
from etrm.training.faults import FAULTS
from etrm.training.trainer import Trainer


@pytest.mark.parametrize(("id", "faults"), [("H2", h2.PREDICATE_FAULTS), ("H3", h3.SYMBOLIC_FAULTS)])
def test_they_are_healthy_or_have_a_fault_of_their_hypothesis(id: str, faults: tuple[str, ...]) -> None:
    controls = symbolic_controls.list_controls(faults)
    assert [control.positive for control in controls] == [False, *[True] * len(faults)]
    assert {FAULTS[name].root_cause for control in controls for name in control.config.faults} == {id}
    jobs, arms = symbolic_controls.plan_jobs("h", faults, 3), symbolic_controls.describe_arms("h", faults)
    assert [(job.arm.name, job.arm.role, job.config.faults) for job in jobs] == [
        (arm.name, arm.role, arm.faults) for arm in arms
    ]


def test_steps_tell_the_controls_of_h2() -> None:
    for job in symbolic_controls.plan_jobs("h2", h2.PREDICATE_FAULTS, 3):
        trainer = Trainer(job.config)
        steps = [trainer.train_step() for _ in range(job.config.train.steps)]
        assert len(steps) == 3
        assert gather(steps, predicates=True).holds == (job.arm.role == "positive control")


def test_a_trace_tells_the_controls_of_h3() -> None:
    for control in symbolic_controls.list_controls(h3.SYMBOLIC_FAULTS):
        assert trace_context(control.config).holds == control.positive
