"""The reference on a device: every variant and encoder is compared there, and departs nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from etrm.config import load, with_settings
from etrm.investigation.reference_comparison.reference_check import check_course, check_start
from etrm.training.monitoring.step_check import read_compared
from etrm.training.trainer import train
from tests.devices.test_training import SUBJECTS

QUICK = ("accumulated",)
"""What is compared in every run of the tests: one path of the step, for each subject takes seconds."""
COMPARED = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in SUBJECTS
    if name not in ("without monitor", "published canvas")
]


@pytest.mark.parametrize("name", COMPARED)
def test_compared_steps_are_equal_on_the_device(name: str, device: torch.device, tmp_path: Path) -> None:
    small = with_settings(
        load("smoke"), data={"max_tasks": 6, "max_side": 3}, train={"batch_size": 4, "threads": 1}
    )
    config = with_settings(with_settings(small, train={"steps": 4, "warmup_steps": 0}), **SUBJECTS[name])
    train(config, tmp_path / "run")
    found = read_compared(tmp_path / "run")
    assert found
    assert not any(step.absent or step.departures for step in found)


@pytest.mark.slow  # compared steps, and answers in tests/devices/test_training.py, are on the device in every run
def test_evaluator_loader_and_answers_are_equal_on_the_device(device: torch.device, tmp_path: Path) -> None:
    config = with_settings(
        load("smoke"), data={"max_tasks": 6, "max_side": 3}, train={"batch_size": 4, "threads": 1}
    )
    found = check_start(config)
    assert (found.departures, found.error) == ([], "")
    train(with_settings(config, train={"steps": 4}, evaluate={"every": 2}), tmp_path / "run")
    course = check_course(tmp_path / "run", evaluated=True)
    assert course.compared
    assert (course.departures, course.error) == ([], "")
