"""A recorded run as it is read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from etrm.checkpoints.run_folder import FROM_STEP
from etrm.checkpoints.saved_steps import name_of
from etrm.errors import CheckpointError, RunFolderError
from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from tests.errors import raises_code
from tests.investigation.recorded_run.conftest import edit_json


def test_a_checkpoint_stands_for_the_run_up_to_it(kept_healthy: Path) -> None:
    whole = RunUnderTest.read(kept_healthy)
    assert [one.step for one in whole.checkpoints] == [10, 20]
    assert [m["step"] for m in whole.metrics] == list(range(1, 21))
    part = RunUnderTest.read(kept_healthy / "checkpoints" / "step_00000010")
    assert (part.path, [one.step for one in part.checkpoints]) == (kept_healthy, [10])
    assert ([m["step"] for m in part.metrics], part.findings) == (list(range(1, 11)), None)


def test_findings_count_the_recorded_steps_of_the_newest_process(healthy: Path) -> None:
    assert json.loads((healthy / "run.json").read_text())[FROM_STEP] == 0
    assert RunUnderTest.read(healthy).recorded_steps == 20
    edit_json(healthy / "run.json", from_step=10)
    assert RunUnderTest.read(healthy).recorded_steps == 10
    config = json.loads((healthy / "config.json").read_text())
    edit_json(healthy / "config.json", monitor=config["monitor"] | {"every": 4})
    assert RunUnderTest.read(healthy).recorded_steps == 2  # steps 13 and 17


def test_of_many_checkpoints_some_are_judged_over_the_whole_run(healthy: Path) -> None:
    folder = healthy / "checkpoints"
    for step in range(21, 32):
        shutil.copytree(folder / name_of(20), folder / name_of(step))
    run = RunUnderTest.read(healthy)
    assert len(run.saved) == 13
    kept = [path.name for path in run.saved]
    names = [name_of(step) for step in (10, 22, 25, 28, 31)]
    assert [kept.index(name) for name in names] == [0, 3, 6, 9, 12]
    assert len(run.checkpoints) == len(names)


def test_weights_are_loaded_without_changing_the_random_start(kept_healthy: Path) -> None:
    run = RunUnderTest.read(kept_healthy)
    before = {name: tensor.clone() for name, tensor in run.start.model.state_dict().items()}
    newest = run.checkpoints[-1]
    loaded = run.load_model(newest, "raw").state_dict()
    assert all(loaded[name].cpu().equal(tensor) for name, tensor in newest.model.items())
    assert all(run.start.model.state_dict()[name].equal(tensor) for name, tensor in before.items())
    with raises_code(CheckpointError, "checkpoint.does-not-fit-config", 20):
        run.load_model(replace(newest, model=newest.model | {"core.H_init": torch.zeros(3)}), "raw")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with raises_code(RunFolderError, "run.absent", tmp_path):
        RunUnderTest.read(tmp_path)
