"""The places that a test of this folder runs at: a simulated GPU everywhere, and a real one where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch

from etrm.config import load, with_settings
from etrm.investigation.runs import pretrained_decoder as pretrain
from tests.devices.simulated import DEVICE, simulated_device


@pytest.fixture(scope="session", params=["simulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest) -> str:
    """Which of the two: ``make test`` takes the first, ``make test-gpu`` the second."""
    return str(request.param)


def entered(place: str) -> AbstractContextManager[object]:
    """Whatever ``train.device = auto`` then takes is on a GPU."""
    return simulated_device() if place == "simulated" else nullcontext()


@pytest.fixture(scope="session")
def decoder(place: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the decoder of preset smoke, trained on the device, in a cache of its own.

    Commands under test add decoders of their own to the same cache.
    """
    with pytest.MonkeyPatch.context() as patch, entered(place):
        patch.setenv("ETRM_CACHE", str(tmp_path_factory.mktemp("cache")))
        smoke = with_settings(load("smoke"), train={"threads": 1}, monitor={"reference_every": None})
        return pretrain.pretrained(pretrain.trm_config(smoke, smoke.train.steps), lambda done, total: None)


@pytest.fixture(scope="session")
def cache(decoder: Path) -> Path:
    """The cache that holds it."""
    return decoder.parents[1]


@pytest.fixture
def device(place: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The device, which ``train.device = auto`` takes."""
    monkeypatch.setenv("ETRM_CACHE", str(cache))
    with entered(place):
        yield DEVICE
