"""The logged steps of a whole run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etrm.config import with_settings
from etrm.investigation.recorded_run.logged_steps import judge_logged_steps
from etrm.investigation.recorded_run.run_under_test import RunUnderTest


def step(number: int, **changes: Any) -> dict[str, Any]:
    sound = {
        "encoder.calls": 1,
        "encoder.coverage": 1.0,
        "encoder.grad_norm_pre_clip": 0.1,
        "encoder.moved": 1e-3,
    }
    return {"step": number, "loss": 1.0, "frozen": None} | sound | changes


UNCOVERED = {"encoder.coverage": 0.5}


def failed(folder: Path, metrics: list[dict[str, Any]], **settings: dict[str, object]) -> set[str]:
    run = RunUnderTest.read(folder)
    run = replace(run, metrics=metrics, config=with_settings(run.config, **settings))
    return {fact.row.code for fact in judge_logged_steps(run) if fact.row.passed is False}


@pytest.mark.parametrize(
    ("bad", "codes"),
    [
        (range(0), set()),
        (range(40, 44), set()),  # four steps are too few
        (range(40, 100, 2), {"run.uncovered-steps"}),  # one bucket of two, from the middle on
        (range(0, 100, 20), set()),  # a twentieth of the steps
        (range(90, 100), {"run.uncovered-steps"}),  # late
    ],
)
def test_a_late_fault_and_one_of_a_single_bucket_is_found(
    kept_healthy: Path, bad: range, codes: set[str]
) -> None:
    metrics = [step(i + 1, **(UNCOVERED if i in bad else {})) for i in range(100)]
    assert failed(kept_healthy, metrics) == codes


def test_each_missing_quantity_has_its_row(kept_healthy: Path) -> None:
    def all_with(**changes: Any) -> list[dict[str, Any]]:
        return [step(i + 1, **changes) for i in range(20)]

    assert failed(kept_healthy, all_with(**{"encoder.grad_norm_pre_clip": 0.0})) == {
        "run.steps-without-gradient"
    }
    assert failed(kept_healthy, all_with(**{"encoder.moved": 0.0})) == {"run.steps-without-movement"}
    assert failed(kept_healthy, all_with(nonfinite=["loss"], loss=None)) == {"run.steps-not-finite"}


def test_steps_that_train_no_encoder_are_left_out(kept_healthy: Path) -> None:
    uncovered = [step(i + 1, **UNCOVERED) for i in range(20)]
    assert failed(kept_healthy, [m | {"frozen": "encoder"} for m in uncovered]) == set()
    assert failed(kept_healthy, uncovered, train={"encoder_lr_scale": 0.0}) == set()
    unrecorded = [{k: v for k, v in m.items() if not k.startswith("encoder")} for m in uncovered]
    assert failed(kept_healthy, unrecorded) == set()
