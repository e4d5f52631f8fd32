"""Runs of the symbolic solver: they resume exactly, and everything in them learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack

import pytest
import torch

from diagnostics import Severity
from etrm.config import Changes, Config, load, with_settings
from etrm.training.scoring.predictor import load_model
from etrm.training.trainer import Trainer, train

RunBytes = Callable[[Path], dict[str, bytes]]


def rules(**changes: Unpack[Changes]) -> Config:
    small: Changes = {
        "data": {"max_tasks": 20},
        "model": {"symbolic": {"guards": 2, "width": 8}},
        "train": {"steps": 6, "batch_size": 4, "warmup_steps": 0, "checkpoint_every": 2},
        "evaluate": {"max_tasks": 4},
    }
    return with_settings(with_settings(load("symbolic-rules"), **small), **changes)


class Killed(Exception):
    """Ends a run as a crash would."""


@pytest.mark.parametrize(
    "settings",
    [{}, {"model": {"symbolic": {"selection": "straight_through", "last_temperature": 0.1}}}],
    ids=["fit", "sampled"],
)
def test_a_run_that_died_and_was_resumed_leaves_the_same_bytes(
    tmp_path: Path, run_bytes: RunBytes, settings: Changes
) -> None:
    def die(trainer: Trainer, metrics: dict[str, Any]) -> None:
        if metrics["step"] == 3:
            raise Killed

    assert train(rules(**settings), tmp_path / "whole")
    with pytest.raises(Killed):
        train(rules(**settings), tmp_path / "resumed", on_step=die)
    assert train(rules(**settings), tmp_path / "resumed", resume=True)
    whole, resumed = run_bytes(tmp_path / "whole"), run_bytes(tmp_path / "resumed")
    assert whole == resumed


def test_micro_batches_have_the_gradient_of_the_whole_batch() -> None:
    first, second = (Trainer(rules(train={"accumulate": n, "clip_norm": None})) for n in (1, 2))
    for trainer in (first, second):
        trainer.train_step()
    for one, two in zip(first.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-4)


def test_every_sample_trains_the_encoder_and_everything_learns() -> None:
    trainer = Trainer(rules(train={"steps": 3}))
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    for _ in range(3):
        metrics = trainer.train_step()
        assert metrics["encoder.coverage"] == 1
    still = {name for name, weight in trainer.model.named_parameters() if torch.equal(weight, before[name])}
    assert still == {"encoder.selector.rules"}  # this library has no whole rule
    assert [found for found in trainer.observer.findings() if found.severity > Severity.NOTE] == []


def test_a_loaded_model_has_the_average_of_the_weights(tmp_path: Path) -> None:
    train(rules(), tmp_path / "run")
    models = {kind: load_model(tmp_path / "run", kind)[0] for kind in ("ema", "raw")}  # type: ignore[arg-type]
    weights = {kind: model.core.state_dict() for kind, model in models.items()}
    assert weights["ema"].keys() == weights["raw"].keys()
    assert any(not torch.equal(weights["ema"][name], weights["raw"][name]) for name in weights["ema"])
    predicates = models["ema"].core.predicates
    assert models["ema"].encoder.templates.predicates is predicates  # type: ignore[union-attr]
