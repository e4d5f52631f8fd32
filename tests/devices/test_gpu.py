"""What must hold on a real GPU, in addition to the tests of this folder that also run there: ``make test-gpu``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from etrm.checkpoints.run_folder import read_record
from etrm.config import Changes, Config, load, with_settings
from etrm.training.execution.distributed import LaunchedWorld
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
    """Not on the published canvas: see docs/results/gpu.md."""
    one, other = (losses(on("cuda", SUBJECTS[name])) for _ in range(2))
    if name == "published canvas":
        assert [line["loss"] for line in other] == pytest.approx([line["loss"] for line in one], abs=LOSS)
    else:
        assert one == other


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
def test_a_run_resumes_on_the_other_device(
    tmp_path: Path, first: str, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = {"cuda": True, "cpu": False}

    def stopped(trainer: Trainer, line: dict[str, Any]) -> None:
        if trainer.step == 2:
            raise KeyboardInterrupt

    config = on("auto", SAVED)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available[first])
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, on_step=stopped)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available[second])
    assert train(config, tmp_path, resume=True)
    (change,) = read_record(tmp_path)["changes"]
    assert change["name"] == "device"


@pytest.fixture
def one_process_of_many() -> Iterator[LaunchedWorld]:
    """The only process of a group, whose exchanges are real ones: gloo between hosts, nccl between GPUs."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    yield LaunchedWorld(0, 1)
    dist.destroy_process_group()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
@pytest.mark.parametrize("name", ["trm", "adam_atan2"])
def test_sums_over_one_process_change_no_bit(
    one_process_of_many: LaunchedWorld, name: str, device: str
) -> None:
    lines = [
        [trainer.train_step() for _ in range(3)]
        for trainer in (
            Trainer(on(device, SUBJECTS[name])),
            Trainer(on(device, SUBJECTS[name]), world=one_process_of_many),
        )
    ]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        # float32 is in tests/training/execution/test_compiling.py
        pytest.param("cpu", "bfloat16", marks=pytest.mark.slow),
        pytest.param("cuda", "float32", marks=gpu),
        pytest.param("cuda", "bfloat16", marks=gpu),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiled_networks_compute_what_plain_ones_compute(device: str, precision: str) -> None:
    """With rows that begin and continue, and steps that are recorded in between."""
    base = with_settings(
        load("smoke"),
        train={"device": device, "precision": precision, "lr": 1e-4},
        data={"augmentations": "fresh"},
        monitor={"every": 4},
    )
    plain, compiled = (Trainer(with_settings(base, train={"compile": on})) for on in (False, True))
    for _ in range(6):
        one, other = plain.train_step(), compiled.train_step()
        # Not the whole loss: of equal logits another may be the largest, by which halting is judged.
        assert other["lm_loss"] == pytest.approx(
            one["lm_loss"], rel=2e-2 if precision == "bfloat16" else 1e-3
        )
        assert other["halted_share"] == one["halted_share"]
    torch._dynamo.reset()


GRAPHS: dict[str, Changes] = {
    "float32": {},
    "bfloat16": {"train": {"precision": "bfloat16"}},
    "cells": {"model": {"encoder": {"layout": "cells", "pooling": "none"}}},
    "frozen": {"train": {"freeze_decoder_steps": 20}},
    "groups of pairs": {"train": {"static_shapes": False}},
    "compiled": {"train": {"static_shapes": False, "compile": True}},
}


@gpu
@pytest.mark.parametrize("changes", GRAPHS.values(), ids=GRAPHS)
def test_replayed_graphs_compute_what_kernels_compute(changes: Changes) -> None:
    """In two buckets, with rows that begin and continue, and steps that are recorded in between."""
    base = with_settings(
        load("smoke"),
        train={"device": "cuda", "lr": 1e-3, "static_shapes": True},
        data={"augmentations": "fresh"},
        monitor={"every": 4},
    )
    plain, replayed = (
        Trainer(with_settings(with_settings(base, **changes), train={"cuda_graphs": on}))
        for on in (False, True)
    )
    low = "precision" in changes.get("train", {})
    for _ in range(20):
        one, other = plain.train_step(), replayed.train_step()
        assert other["loss"] == pytest.approx(one["loss"], rel=2e-2 if low else 1e-4)
        assert other["halted_share"] == one["halted_share"]
    assert replayed.graphs is not None
    assert replayed.graphs.count >= 2
    if not low:
        for name, value in plain.model.state_dict().items():
            torch.testing.assert_close(
                replayed.model.state_dict()[name], value, rtol=1e-2, atol=1e-3, msg=name
            )
