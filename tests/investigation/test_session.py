"""The decoder that an investigation trains, and runs that were stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from etrm.checkpoints.folder_lock import lock_folder
from etrm.config import ModelConfig, load, with_settings
from etrm.errors import NonFiniteError
from etrm.investigation.runs import pretrained_decoder as pretrain
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.budget import SCREENING
from etrm.investigation.runs.jobs import Job
from etrm.investigation.session import Investigation
from etrm.model.recursive import RecursiveModel
from tests.investigation.planted import inline

SHORT = replace(SCREENING, pretrain_steps=4)


@pytest.fixture
def without_decoder(
    investigation: Investigation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Investigation:
    """An investigation whose subject names no decoder, and nothing in the cache."""
    monkeypatch.setenv("ETRM_CACHE", str(tmp_path / "cache"))
    subject = with_settings(load("smoke"), train={"threads": 1})
    return replace(investigation, subject=subject, tier=SHORT, launcher=inline())


def test_a_decoder_is_trained_once_and_kept(
    without_decoder: Investigation, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pretrain.trm_config(without_decoder.subject, 4)
    assert pretrain.finished(config) is False
    assert without_decoder.decoder == pretrain.folder_of(config)
    assert pretrain.finished(config) is True
    other = replace(without_decoder, root=without_decoder.root / "other")
    monkeypatch.setattr(Investigation, "run", None)  # nothing is left to train
    assert other.decoder == without_decoder.decoder


def test_a_decoder_that_another_investigation_trains_is_waited_for_and_left_alone(
    without_decoder: Investigation, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pretrain.folder_of(pretrain.trm_config(without_decoder.subject, 4))
    folder.mkdir(parents=True)
    monkeypatch.setattr("etrm.investigation.session.pretrained", lambda *arguments: folder)
    with lock_folder(folder):
        assert without_decoder.decoder == folder
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_a_run_that_was_stopped_is_none(
    without_decoder: Investigation, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(ArmId("stopped"), 0, without_decoder.subject, until_departure=True)
    monkeypatch.setattr("etrm.investigation.runs.measured_run.measured_run", lambda *args, **options: None)
    assert without_decoder.try_run("stopped", job) is None


def test_a_decoder_that_cannot_be_trained_says_why(
    without_decoder: Investigation, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = pretrain.TRAINING | {"lr": 1e30, "clip_norm": None}
    monkeypatch.setattr(pretrain, "TRAINING", broken)
    with pytest.raises(NonFiniteError):
        _ = without_decoder.decoder


def test_a_decoder_may_stand_in_any_folder(without_decoder: Investigation) -> None:
    decoder = Path('/nowhere/it\'s "here" = [1]')
    assert without_decoder.starting_from(decoder).train.decoder == decoder
    vars(without_decoder)["control_decoder"] = decoder
    control = without_decoder.control_config(("cached-context", "eval-leak"))
    assert (control.train.decoder, control.train.threads) == (decoder, 1)
    assert control.faults == ("cached-context", "eval-leak")


def _add_weight(core: nn.Module) -> nn.Module:
    core.register_parameter("more", nn.Parameter(torch.zeros(1)))
    return core


@pytest.mark.parametrize(
    ("change", "takes"), [(nn.Identity(), True), (lambda core: nn.Linear(1, 1), False), (_add_weight, False)]
)
def test_only_the_recursive_core_takes_a_decoder(
    change: Callable[[nn.Module], nn.Module],
    takes: bool,
    investigation: Investigation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(config: ModelConfig, puzzles: int) -> RecursiveModel:
        model = RecursiveModel(config)
        model.core = change(model.core)  # type: ignore[assignment]
        return model

    monkeypatch.setattr("etrm.investigation.session.build_variant", build)
    variant = {"variant": "own_variant.py:Own"}
    own = replace(investigation, subject=with_settings(investigation.subject, model=variant))
    assert own.takes_decoder is takes
    assert investigation.takes_decoder
