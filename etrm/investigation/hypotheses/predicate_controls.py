"""Controls of H2 for a run that learns predicates: a small symbolic solver, healthy and with faults of predicates."""

from __future__ import annotations

from etrm.config import Config, with_settings
from etrm.investigation.controls import Control
from etrm.investigation.hypotheses.symbolic_hypothesis import SYMBOLIC_PRESET, control_config
from etrm.investigation.records import Arm, Role
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.jobs import Job

FAULTS = ("predicates-item", "tautology-guard")
"""A cut gives no gradient, and a tautology one of zero."""
HEALTHY = "healthy-symbolic"


def list_controls(subject: Config) -> list[Control]:
    """The controls, none where the run under test learns no predicates."""
    if not subject.model.learns_predicates:
        return []
    small = f"preset {SYMBOLIC_PRESET} on few tasks"
    return [
        Control(HEALTHY, f"{small}, no fault", control_config(), False),
        *(Control(name, f"{small}, fault {name}", control_config((name,)), True) for name in FAULTS),
    ]


def describe_arms(study: str, subject: Config) -> tuple[Arm, ...]:
    """The arms of the controls."""
    return tuple(
        Arm(
            name=_arm(study, control).name,
            role=_arm(study, control).role,
            difference=control.what,
            faults=control.config.faults,
        )
        for control in list_controls(subject)
    )


def plan_jobs(study: str, subject: Config, steps: int) -> list[Job]:
    """A short run of each control."""
    jobs = []
    for control in list_controls(subject):
        config = with_settings(control.config, train={"steps": steps, "warmup_steps": 0})
        jobs.append(Job(_arm(study, control), 0, config, shared=True))
    return jobs


def _arm(study: str, control: Control) -> ArmId:
    role: Role = "positive control" if control.positive else "negative control"
    return ArmId(study, control=control.name, role=role)
