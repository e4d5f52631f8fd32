"""What a run was made with, against what is there now."""

from __future__ import annotations

import json
from pathlib import Path

from etrm.config import with_settings
from etrm.investigation.recorded_run.environment import compare_environment
from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from tests.investigation.recorded_run.conftest import edit_json

OF_THE_CHECKOUT = {"run.uncommitted-code", "run.other-commit"}
"""Differences that depend on the checkout in which the tests run."""


def differences(folder: Path, **settings: dict[str, object]) -> dict[tuple[str, str], tuple[str, str]]:
    run = RunUnderTest.read(folder)
    found = compare_environment(run, with_settings(run.config, **settings))
    return {(one.code, one.name): (one.before, one.now) for one in found if one.code not in OF_THE_CHECKOUT}


def test_a_run_of_this_code_on_this_machine_differs_in_nothing(kept_healthy: Path) -> None:
    assert differences(kept_healthy) == {}


def test_each_difference_has_a_code_and_both_values(healthy: Path) -> None:
    record = json.loads((healthy / "run.json").read_text())
    edit_json(
        healthy / "run.json",
        data_hash="0" * 64,
        device="cuda: a GPU",
        versions=record["versions"] | {"torch": "1.0"},
        changes=[{"step": 5, "name": "threads", "before": "2", "now": "1"}],
    )
    found = differences(healthy, train={"lr": 0.5})
    assert found.pop(("run.other-setting", "train.lr")) == ("0.001", "0.5")
    assert found.pop(("run.other-data", "data_hash")) == ("0" * 64, record["data_hash"])
    assert found.pop(("run.other-version", "versions.torch")) == ("1.0", record["versions"]["torch"])
    assert found.pop(("run.other-device", "device")) == ("cuda: a GPU", record["device"])
    assert found.pop(("run.moved", "threads, step 5")) == ("2", "1")
    assert found == {}


def test_another_commit_is_a_difference_and_an_unknown_one_is_not(healthy: Path) -> None:
    def commits() -> list[str]:
        run = RunUnderTest.read(healthy)
        found = compare_environment(run, run.config)
        return [one.before for one in found if one.code == "run.other-commit"]

    edit_json(healthy / "run.json", commit="unknown")
    assert commits() == []
