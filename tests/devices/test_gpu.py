"""What must hold on a real GPU, in addition to the tests of this folder that also run there: ``make test-gpu``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from etrm.config import Changes, Config, with_settings
from etrm.training.trainer import Trainer, train
from tests.devices.test_training import STEPS, SUBJECTS, losses, subject
from tests.training.interruptions.test_moved_run import LOSS, NORM

gpu = pytest.mark.gpu
SAVED: Changes = {"train": {"steps": 4, "checkpoint_every": 1}}


def on(device: str, changes: Changes, **settings: str) -> Config:
    return with_settings(subject(**changes), train={"device": device, **settings})


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_runs_of_this_file_can_be_made_without_a_gpu(name: str) -> None:
    for changes in (SUBJECTS[name], SAVED):
        assert on("cuda", changes, precision="bfloat16").train.device == "cuda"


@gpu
@pytest.mark.parametrize("name", SUBJECTS)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    assert losses(on("cuda", SUBJECTS[name])) == losses(on("cuda", SUBJECTS[name]))


@gpu
@pytest.mark.parametrize("name", SUBJECTS)
def test_losses_are_those_of_the_host_within_the_documented_tolerance(name: str) -> None:
    for here, there in zip(
        losses(on("cpu", SUBJECTS[name])), losses(on("cuda", SUBJECTS[name])), strict=True
    ):
        assert here["loss"] == pytest.approx(there["loss"], abs=LOSS)
        assert here["grad_norm_before_clip"] == pytest.approx(there["grad_norm_before_clip"], abs=NORM)


@gpu
@pytest.mark.parametrize("name", SUBJECTS)
def test_bfloat16_trains_every_variant(name: str) -> None:
    lines = losses(on("cuda", SUBJECTS[name], precision="bfloat16"))
    assert len(lines) == STEPS
    assert all(0 < line["loss"] < 10 for line in lines)


@gpu
@pytest.mark.parametrize(("first", "second"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_resumes_on_the_other_device(tmp_path: Path, first: str, second: str) -> None:
    def stopped(trainer: Trainer, line: dict[str, Any]) -> None:
        if trainer.step == 2:
            raise KeyboardInterrupt

    config = on(first, SAVED)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, on_step=stopped)
    assert train(on(second, SAVED), tmp_path, resume=True)
