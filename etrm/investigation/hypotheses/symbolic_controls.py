"""Controls of H2 and H3 that are a small symbolic solver, healthy and with faults, for runs of such a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from etrm.config import Config, with_settings
from etrm.investigation.controls import Control
from etrm.investigation.evidence.reasons import InspectionFacts
from etrm.investigation.hypotheses.inspection import judge_by, judge_controls
from etrm.investigation.hypotheses.symbolic_hypothesis import SYMBOLIC_PRESET, control_config
from etrm.investigation.records import Arm, ControlOutcome
from etrm.investigation.runs.jobs import Job

HEALTHY = "healthy-symbolic"


def list_controls(faults: Sequence[str]) -> list[Control]:
    """The healthy solver, and one with each fault."""
    small = f"preset {SYMBOLIC_PRESET} on few tasks"
    faulty = [Control(name, f"{small}, fault {name}", control_config((name,)), True) for name in faults]
    return [Control(HEALTHY, f"{small}, no fault", control_config(), False), *faulty]


def describe_arms(study: str, faults: Sequence[str]) -> tuple[Arm, ...]:
    """The arms of the controls."""
    return tuple(control.arm(study) for control in list_controls(faults))


def plan_jobs(study: str, faults: Sequence[str], steps: int) -> list[Job]:
    """A run of each control with a number of steps."""
    short = {"steps": steps, "warmup_steps": 0}
    return [
        Job(control.arm_id(study), 0, with_settings(control.config, train=short), shared=True)
        for control in list_controls(faults)
    ]


def inspect_controls(
    study: str, faults: Sequence[str], inspect: Callable[[Config], InspectionFacts]
) -> tuple[ControlOutcome, ...]:
    """Inspect each control; the outcomes are kept between investigations."""
    return judge_controls(f"{study}-symbolic", list_controls(faults), judge_by(inspect), inspect)
