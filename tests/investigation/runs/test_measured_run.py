"""The trainer of a run folder, built anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from etrm.checkpoints.run_folder import RunFolder
from etrm.config import load, with_settings
from etrm.investigation.runs.measured_run import rebuild_trainer
from etrm.training.trainer import Trainer


@pytest.mark.parametrize("fault", ["warmup-too-long", "lr-too-high"])
def test_a_rebuilt_trainer_has_the_faults_of_its_run_once(tmp_path: Path, fault: str) -> None:
    config = with_settings(load("smoke"), monitor={"enabled": False}, faults=(fault,))
    folder = RunFolder(tmp_path / "run", config, resume=False)
    first = Trainer(config, folder)
    folder.close()
    again = rebuild_trainer(folder.path)
    assert again.config == first.config
    assert again.config.train != config.train
