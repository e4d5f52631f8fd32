"""Training, checkpoints, evaluation and probes with the model on a device: the same bits as on the host."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

from etrm.checkpoints.run_folder import RunFolder
from etrm.config import Changes, Config, load, with_settings
from etrm.data import build_evaluation_samples
from etrm.errors import NonFiniteError
from etrm.investigation.experiments.position_probe import position_skill
from etrm.investigation.runs.measured_run import measured_run
from etrm.training.faults import FAULTS
from etrm.training.scoring.predictor import compute_mean_loss, load_model, make_predictor
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import Trainer
from tests.devices.simulated import simulated_device

STEPS = 3
KINDS = (
    "standard",
    "hybrid_standard",
    "lpn_standard",
    "lpn_variational",
    "hybrid_variational",
    "recurrent",
    "trm_style",
)
SUBJECTS: dict[str, Changes] = {
    "trm": {"model": {"variant": "trm"}, "data": {"augmentations": 2}},
    "etrm_fct": {"model": {"variant": "etrm_fct"}},
    "etrm_cached": {"model": {"variant": "etrm_cached"}},
    **{kind: {"model": {"encoder": {"kind": kind}}} for kind in KINDS},
    "adam_atan2": {"train": {"optimizer": "adam_atan2"}},
    "accumulated": {"train": {"accumulate": 2, "log_every": 2}},
    "frozen": {"train": {"freeze_decoder_steps": 2}},
    "steps without a gradient": {
        "model": {"variant": "etrm_cached"},
        "train": {"freeze_decoder_steps": 3},
        "data": {"buckets": 1},
    },
    "published canvas": {"data": {"canvas": "published", "max_tasks": 3}, "train": {"batch_size": 2}},
    "several buckets": {"data": {"buckets": 3}},
    "without monitor": {"monitor": {"enabled": False}},
    "recomputed": {"train": {"recompute": True}, "monitor": {"layers": True}},
}


def subject(**settings: Any) -> Config:
    """A run of few operations, for the simulation of a device is slow."""
    smoke = with_settings(
        load("smoke"),
        model={"halt": {"max_steps": 2}},
        train={"threads": 1, "steps": STEPS, "warmup_steps": 0, "batch_size": 4},
        monitor={"reference_every": None, "probe_tasks": 2},  # tests/devices/test_reference.py compares
    )
    return with_settings(smoke, **settings)


def losses(config: Config) -> list[Any]:
    trainer = Trainer(config)
    found = [line for _ in range(STEPS) for line in trainer.advance()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


LONGER = (
    "hybrid_standard",
    "lpn_standard",
    "hybrid_variational",
    "adam_atan2",
    "frozen",
    "several buckets",
    "published canvas",
    "without monitor",
    "recomputed",
)
"""What differs little from another subject, and is left to `make test-slow`."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LONGER else []) for name in SUBJECTS],
)
def test_every_variant_and_encoder_trains_as_on_the_host(name: str) -> None:
    config = subject(**SUBJECTS[name])
    with simulated_device():
        on_device = losses(config)
    assert on_device == losses(config)


@pytest.mark.parametrize("selector", ["fit", "demos"])
def test_the_symbolic_solver_trains_as_on_the_host(selector: str) -> None:
    """Quantifiers are means: torch makes tensors of its own in the derivative of a product, on this device's host."""
    rules = with_settings(
        load("symbolic-rules"),
        data={"max_tasks": 12, "max_side": 4},
        model={"symbolic": {"guards": 3, "quantifier": "mean", "selector": selector}},
        train={"batch_size": 4, "threads": 1, "steps": STEPS, "warmup_steps": 0, "entropy_weight": 0.01},
    )
    with simulated_device():
        on_device = losses(rules)
    assert on_device == losses(rules)


def test_bfloat16_trains(device: torch.device) -> None:
    assert all(line["loss"] > 0 for line in losses(subject(train={"precision": "bfloat16"})))


RECURSIVE = [name for name, fault in FAULTS.items() if fault.models != "symbolic"]
FEW = {"context-nan", *RECURSIVE[::4]}
"""Faults that are trained in every run of the tests; the others are left to `make test-slow`."""


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow]) for name in RECURSIVE]
)
def test_every_fault_trains(device: torch.device, fault: str, decoder: Path) -> None:
    trainer = Trainer(subject(faults=(fault,), train={"decoder": decoder}))
    refused = pytest.raises(NonFiniteError) if fault == "context-nan" else contextlib.nullcontext()
    with refused:
        trainer.train_step()
    assert trainer.model.core.H_init.device == device


class _Stopped(Exception):
    """Stands for a run that ends between two checkpoints."""


def _run(config: Config, path: Path, stop_after: int | None = None) -> list[float]:
    """The losses of a run's steps, from its last checkpoint; ``stop_after`` a step it is cut off."""
    losses = []

    def on_step(trainer: Trainer, line: dict[str, Any]) -> None:
        losses.append(line["loss"])
        if trainer.step == stop_after:
            raise _Stopped

    folder = RunFolder(path, config, resume=True)
    try:
        trainer = Trainer(config, folder)
        trainer.resume()
        with contextlib.suppress(_Stopped):
            trainer.run(on_step)
    finally:
        folder.close()
    return losses


def test_a_run_resumes_on_the_other_side(tmp_path: Path) -> None:
    config = subject(train={"steps": 4, "checkpoint_every": 2})
    whole = _run(config, tmp_path / "host")
    with simulated_device():
        assert _run(config, tmp_path / "moved", stop_after=3) == whole[:3]
    assert _run(config, tmp_path / "moved") == whole[2:]
    assert _run(config, tmp_path / "back", stop_after=3) == whole[:3]
    with simulated_device():
        assert _run(config, tmp_path / "back") == whole[2:]


def test_what_is_measured_around_a_run(tmp_path: Path) -> None:
    config = subject()
    with simulated_device():
        on_device = measured_run(config, tmp_path / "device", measure=True, held_out=True)
    on_host = measured_run(config, tmp_path / "host", measure=True, held_out=True)
    assert on_device == on_host
    assert on_host is not None
    assert {"loss_end", "retrieval_end", "held_out_pass_at_1"} <= on_host["measured"].keys()


def test_answers_are_those_of_the_host(tmp_path: Path) -> None:
    _run(subject(), tmp_path)

    def answers() -> tuple[torch.device, list[Any], float]:
        model, config, *_ = load_model(tmp_path, "ema")
        samples = build_evaluation_samples(load_held_out_tasks(config), config.data, 1, 0)
        found = [(tokens.tolist(), logit) for tokens, logit in make_predictor(model)(samples)]
        return model.core.H_init.device, found, compute_mean_loss(model, samples)

    on_host = answers()
    with simulated_device() as device:
        on_device = answers()
    assert (on_host[0].type, on_device[0]) == ("cpu", device)
    assert on_device[1:] == on_host[1:]


def test_the_position_probe(tmp_path: Path) -> None:
    _run(subject(), tmp_path)

    def skill() -> Any:
        model, *_ = load_model(tmp_path, "raw")
        return position_skill(model.encoder.grid_encoder)

    on_host = skill()
    with simulated_device():
        assert skill() == on_host


@pytest.mark.parametrize("broken", ["loss", pytest.param("weight", marks=pytest.mark.slow)])
def test_what_is_not_finite_is_kept_as_on_the_host(broken: str, tmp_path: Path) -> None:
    def kept(path: Path) -> dict[str, Any]:
        config = subject(train={"lr": 1e30 if broken == "weight" else 1e-3})
        folder = RunFolder(path, config, resume=True)
        try:
            trainer = Trainer(config, folder)
            if broken == "loss":
                with torch.no_grad():
                    trainer.model.core.H_init[0] = float("nan")
            with pytest.raises(NonFiniteError) as caught:
                trainer.run()
        finally:
            folder.close()
        return {"error": type(caught.value), "files": sorted(p.name for p in path.rglob("*"))}

    with simulated_device():
        on_device = kept(tmp_path / "device")
    assert on_device == kept(tmp_path / "host")
