"""Every test here runs on a machine that seems to have a GPU; :mod:`tests.devices.simulated` says how."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from etrm.config import load
from etrm.investigation import pretrain
from tests.devices.simulated import simulated_device


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the decoder of preset smoke, trained on the simulated device."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch, simulated_device():
        patch.setenv("ETRM_CACHE", str(folder))
        smoke = load("smoke", overrides=("train.threads=1",))
        pretrain.pretrained(pretrain.trm_config(smoke, smoke.train.steps), lambda done, total: None)
    return folder


@pytest.fixture
def decoder(cache: Path) -> Path:
    """The run folder of that decoder."""
    (folder,) = (cache / "decoders").iterdir()
    return folder


@pytest.fixture
def device(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The simulated device, which ``train.device = auto`` then takes."""
    monkeypatch.setenv("ETRM_CACHE", str(cache))
    with simulated_device() as found:
        yield found
