"""Known updates: healthy optimisers depart nowhere, and a lost decay departs although its rate is tiny."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch.optim import Optimizer

from etrm.config import Config, load, with_settings
from etrm.investigation.reference_comparison.training_updates import compare_training_updates
from etrm.reference.departure import Departure, PipelineStage
from etrm.training.trainer import Trainer


def config_of(preset: str = "smoke", **changes: Any) -> Config:
    small = {
        "data": {"max_tasks": 3, "max_side": 3},
        "train": {"batch_size": 2, "threads": 1},
        "monitor": {"enabled": False},
    }
    return with_settings(with_settings(load(preset), **small), **changes)


def depart(config: Config, **changed: Any) -> list[Departure]:
    """What departs where the optimisers have other settings than the config says."""
    trainer = Trainer(config)
    build = trainer.recipe.build_optimizers

    def build_changed(*args: Any) -> list[Optimizer]:
        optimizers = build(*args)
        for group in optimizers[-1].param_groups:  # that of a puzzle table, or of all weights
            group |= changed
        return optimizers

    trainer.recipe = replace(trainer.recipe, build_optimizers=build_changed)
    return compare_training_updates(trainer, config)


TRM = {"model": {"variant": "trm"}, "data": {"augmentations": 2}}


@pytest.mark.parametrize(
    "config",
    [
        config_of(train={"optimizer": "adam_atan2", "weight_decay": 1.0}),
        config_of(train={"optimizer": "adamw", "lr": 1e-9, "freeze_decoder_steps": 3}),
        config_of(**TRM),
        config_of("symbolic"),
    ],
    ids=["adam_atan2", "adamw", "trm", "symbolic"],
)
def test_healthy_optimisers_depart_nowhere(config: Config) -> None:
    assert depart(config) == []


@pytest.mark.parametrize("optimizer", ["adamw", "adam_atan2"])
@pytest.mark.parametrize("changed", [{"weight_decay": 0.0}, {"betas": (0.9, 0.9)}], ids=str)
def test_other_settings_are_the_update(changed: dict[str, Any], optimizer: str) -> None:
    config = config_of(train={"optimizer": optimizer, "lr": 1e-9, "weight_decay": 1e-3, "beta2": 0.95})
    found = depart(config, **changed)
    assert {one.stage for one in found} == {PipelineStage.UPDATE}
    assert not any(one.unmoved for one in found)


def test_the_decay_of_a_puzzle_table_is_the_update() -> None:
    found = depart(config_of(**TRM), weight_decay=0.0)
    assert [one.tensor for one in found] == ["puzzle_table.weights"]
