"""Recorded runs of the preset smoke: a healthy one, and one with a fault that is no longer in the code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from etrm.config import load, with_settings
from etrm.training.trainer import train


def train_smoke(folder: Path, *faults: str) -> Path:
    """Train the preset smoke with some faults, on one thread, without comparisons of its steps."""
    smoke = with_settings(load("smoke"), train={"threads": 1}, monitor={"reference_every": None})
    assert train(with_settings(smoke, faults=faults), folder)
    return folder


def edit_json(file: Path, **changes: object) -> None:
    """Change top-level entries of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture(scope="session")
def kept_healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy run, which no test may change."""
    return train_smoke(tmp_path_factory.mktemp("recorded") / "healthy")


@pytest.fixture
def healthy(kept_healthy: Path, tmp_path: Path) -> Path:
    """A copy of the healthy run, which a test may change."""
    return Path(shutil.copytree(kept_healthy, tmp_path / "healthy"))


@pytest.fixture(scope="session")
def with_past_fault(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make a run that was trained with a fault which its config no longer names: its weights are wrong, not its
    settings."""
    made: dict[str, Path] = {}

    def make(fault: str) -> Path:
        if fault not in made:
            made[fault] = train_smoke(tmp_path_factory.mktemp("recorded") / fault, fault)
            edit_json(made[fault] / "config.json", faults=[])
        return made[fault]

    return make
