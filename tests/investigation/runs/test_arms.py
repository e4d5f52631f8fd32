"""The names of arms, which are folders that earlier versions wrote."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from etrm.config import load
from etrm.investigation.comparison import frozen_arms, screening
from etrm.investigation.controls import control_arm, subject_arm
from etrm.investigation.experiments import replayed_mistakes
from etrm.investigation.hypotheses import unseen_rules
from etrm.investigation.records import Role
from etrm.investigation.runs.arms import ArmId

SMOKE = load("smoke")


def few(treatment: str = screening.UNCHANGED) -> ArmId:
    return screening.Screen(SMOKE, (), (0,)).arm(treatment)


def few_of(control: str, treatment: str, *faults: str) -> ArmId:
    return screening.control_screen(control, screening.control_preset(faults), ()).arm(treatment)


@pytest.mark.parametrize(
    ("make", "name", "role"),
    [
        (lambda: subject_arm("h2"), "h2-subject", "subject"),
        (lambda: control_arm("h2"), "h2-healthy", "negative control"),
        (lambda: control_arm("h2", "cached-context"), "h2-cached-context", "positive control"),
        (few, "few-as-given", "subject"),
        (lambda: few("rate-x.1"), "few-rate-x.1", "treatment"),
        (lambda: few_of("healthy", "as-given"), "few-healthy-as-given", "negative control"),
        (
            lambda: few_of("warmup-too-long", "warm-up", "warmup-too-long"),
            "few-warmup-too-long-warm-up",
            "positive control",
        ),
        (lambda: unseen_rules.ARM, "rules-as-given", "treatment"),
        (lambda: frozen_arms.TRAINED, "frozen-trained", "treatment"),
        (lambda: frozen_arms.BLIND, "frozen-foreign-demos", "control"),
        (lambda: replayed_mistakes.SHORT, "original-short", "treatment"),
        (lambda: ArmId("E7"), "E7", "treatment"),
    ],
)
def test_names_are_those_of_earlier_versions(make: Callable[[], ArmId], name: str, role: Role) -> None:
    arm = make()
    assert (arm.name, arm.role, arm.folder(3)) == (name, role, f"runs/{name}/seed3")


def test_what_has_the_same_fields_is_the_same_arm() -> None:
    assert few() == few()
    assert len({few(), few("batch"), few_of("healthy", "as-given"), subject_arm("h2")}) == 4
