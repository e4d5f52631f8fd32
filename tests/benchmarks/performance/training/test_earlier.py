"""Runs with the code of another folder, and the archive of a commit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.performance.training import earlier
from benchmarks.performance.training.runs import SMALL, make_run


@pytest.mark.slow
def test_the_code_of_the_folder_is_measured(tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    copied.mkdir()
    for package in ("etrm", "diagnostics"):
        shutil.copytree(
            earlier.ROOT / package, copied / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    found = earlier.run_steps(make_run(SMALL, torch.device("cpu")), 0.01, copied)
    assert Path(found["code"]) == copied
    assert found["rows_per_second"] == pytest.approx(1e3 * found["rows"] / found["ms_per_step"])
