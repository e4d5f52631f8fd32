"""The decoder that an investigation trains, and what is trained in parallel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from etrm.config import load, with_settings
from etrm.errors import NonFiniteError
from etrm.investigation.runs import pretrained_decoder as pretrain
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.budget import SCREENING
from etrm.investigation.runs.jobs import Job
from etrm.investigation.session import Investigation
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


def test_what_is_needed_anyway_is_trained_beside_the_decoder(without_decoder: Investigation) -> None:
    config = with_settings(without_decoder.subject, train={"steps": 3})
    asked: list[int] = []

    def meanwhile() -> list[Job]:
        asked.append(1)
        return [Job(ArmId("few"), seed, config) for seed in (0, 1)]

    one = replace(without_decoder, meanwhile=meanwhile)
    assert pretrain.finished(pretrain.trm_config(one.subject, 4)) is False
    assert one.decoder == pretrain.folder_of(pretrain.trm_config(one.subject, 4))
    assert [run.steps for run in one.finished(ArmId("few"))] == [3, 3]
    other = replace(without_decoder, root=without_decoder.root / "other", meanwhile=meanwhile)
    assert other.decoder == one.decoder  # kept: there is nothing to wait for
    assert (len(asked), other.finished(ArmId("few"))) == (1, [])


def test_what_may_be_a_verdict_starts_before_the_decoder(
    without_decoder: Investigation, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def record(root: Path, jobs: list[Job], *more: object) -> dict[object, object]:
        started.extend(job.arm.study for job in jobs)
        return {}

    monkeypatch.setattr(Investigation, "run", lambda self, phase, jobs: record(self.root, jobs) and [])
    monkeypatch.setattr(Investigation, "_trm", lambda self, *more: Path("decoder"))
    job = Job(ArmId("first"), 0, without_decoder.subject)
    beside = Job(ArmId("beside"), 0, without_decoder.subject)
    one = replace(without_decoder, awaited=lambda: [job], meanwhile=lambda: [beside])
    assert one.decoder == Path("decoder")
    assert started == ["first", "trm-decoder", "beside"]


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
