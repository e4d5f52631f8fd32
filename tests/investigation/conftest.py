"""One cached decoder of the control preset for all tests of the investigation."""

from __future__ import annotations

from pathlib import Path

import pytest

from etrm.config import Config, load, with_settings
from etrm.investigation.decision_order import DecisionOrder
from etrm.investigation.result import ReferenceResult
from etrm.investigation.runs import pretrained_decoder as pretrain
from etrm.investigation.session import Investigation
from tests.investigation.planted import inline


def shorten(config: Config) -> Config:
    """The same run in eight steps: at four ACT steps every row begins twice."""
    return with_settings(config, train={"steps": 8, "warmup_steps": 1})


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TRM of the smoke preset, trained for its 20 steps."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ETRM_CACHE", str(tmp_path_factory.mktemp("cache")))
    smoke = with_settings(load("smoke"), train={"threads": 1}, monitor={"reference_every": None})
    folder = pretrain.pretrained(pretrain.trm_config(smoke, smoke.train.steps), lambda done, total: None)
    patch.undo()
    return folder


@pytest.fixture
def subject(decoder: Path) -> Config:
    """The smoke preset starting from that decoder, without comparisons of its steps, as `investigate` sets it."""
    return with_settings(
        shorten(load("smoke")),
        train={"decoder": decoder, "threads": 1},
        monitor={"reference_every": None},
    )


@pytest.fixture
def investigation(
    tmp_path: Path, subject: Config, decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> Investigation:
    """An investigation of it with one seed, whose controls are as short."""
    monkeypatch.setenv("ETRM_CACHE", str(decoder.parent.parent))
    whole = Investigation.control_config
    monkeypatch.setattr(Investigation, "control_config", lambda self, faults=(): shorten(whole(self, faults)))
    return Investigation(
        root=tmp_path / "out",
        subject=subject,
        seeds=(0,),
        launcher=inline(),
        progress=lambda phase, done, total: None,
    )


@pytest.fixture
def equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison of the code with the reference that departs nowhere: tests of what follows do not wait for it."""
    planted = ReferenceResult(codes=("reference.equal",), sentence="planted")
    monkeypatch.setattr(DecisionOrder, "compare", lambda self, given, recorded: planted)
