"""The controls of a hypothesis: a known preset, healthy or with a fault that must be found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etrm.config import Config, load, with_settings
from etrm.investigation.judgement import Judgement
from etrm.investigation.records import Arm, ControlOutcome, Verdict
from etrm.investigation.runs.arms import ArmId

CONTROL_PRESET = "smoke"
"""Controls run on a preset that is known, so that a broken subject cannot break them too."""


HEALTHY = "healthy"
"""Name of the control without a fault."""


@dataclass(frozen=True)
class Control:
    """A config with a known answer.

    Attributes:
        name: a stable name, of a fault or of a setting.
        what: the config in words.
        config: the config.
        positive: whether the hypothesis must be found to hold.
    """

    name: str
    what: str
    config: Config
    positive: bool

    def arm_id(self, study: str) -> ArmId:
        """Its arm in a study."""
        return ArmId(
            study, control=self.name, role="positive control" if self.positive else "negative control"
        )

    def arm(self, study: str) -> Arm:
        """The same as part of a result."""
        arm = self.arm_id(study)
        return Arm(name=arm.name, role=arm.role, difference=self.what, faults=self.config.faults)


def control_preset(faults: Sequence[str] = ()) -> Config:
    """The control preset with some faults, on one thread; nobody reads a comparison of its steps."""
    return with_settings(
        load(CONTROL_PRESET), faults=tuple(faults), train={"threads": 1}, monitor={"reference_every": None}
    )


def preset_controls(positive: Sequence[str]) -> list[Control]:
    """The control preset without a fault, and with each fault that must be found."""
    healthy = Control(HEALTHY, f"preset {CONTROL_PRESET} without a fault", control_preset(), False)
    faulty = [
        Control(name, f"fault {name} on preset {CONTROL_PRESET}", control_preset((name,)), True)
        for name in positive
    ]
    return [healthy, *faulty]


def subject_arm(study: str) -> ArmId:
    """The arm of the run under test."""
    return ArmId(study, setting="subject", role="subject")


def control_arm(study: str, fault: str = "") -> ArmId:
    """The arm of the control with a fault, or of the healthy control."""
    return ArmId(study, control=fault or HEALTHY, role="positive control" if fault else "negative control")


def inspected_arms(study: str, subject: Config, positive: Sequence[str]) -> tuple[Arm, ...]:
    """The run under test, the healthy control, and a control for each fault that must be found."""
    under_test, healthy = subject_arm(study), control_arm(study)
    faulty = (
        Arm(
            name=control_arm(study, fault).name,
            role="positive control",
            difference=f"preset {CONTROL_PRESET}, fault {fault}",
            faults=(fault,),
        )
        for fault in positive
    )
    return (
        Arm(name=under_test.name, role=under_test.role, difference="unchanged", faults=subject.faults),
        Arm(name=healthy.name, role=healthy.role, difference=f"preset {CONTROL_PRESET}, no fault"),
        *faulty,
    )


def control_outcome(name: str, positive: bool, judgement: Judgement, what: str = "") -> ControlOutcome:
    """A positive control must be VALIDATED, or with few seeds a candidate; a negative one must be neither.

    Args:
        name: the name of the fault or setting, or that of the healthy control.
        positive: whether the hypothesis must be found to hold.
        judgement: the verdict on the control with its reasons.
        what: the control in words; the control preset with that fault, or without one, by default.
    """
    fault = f"fault {name} on preset {CONTROL_PRESET}"
    got, candidate = judgement.verdict, judgement.candidate
    return ControlOutcome(
        name=name,
        kind="positive" if positive else "negative",
        what=what or (fault if positive else f"preset {CONTROL_PRESET} without a fault"),
        expected=Verdict.VALIDATED if positive else Verdict.INVALIDATED,
        got=got,
        behaved=(candidate or got is Verdict.VALIDATED) == positive and got is not Verdict.ERROR,
        codes=judgement.codes,
        detail=judgement.sentence,
        candidate=candidate,
    )


def broken_controls(controls: Sequence[ControlOutcome]) -> str:
    """The reason why a verdict would mean nothing, or nothing where every control behaved."""
    names = [control.name for control in controls if not control.behaved]
    return f"Controls did not behave: {', '.join(names)}. A verdict would mean nothing." if names else ""
