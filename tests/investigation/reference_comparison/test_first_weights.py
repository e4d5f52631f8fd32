"""First weights that the seed does not decide, or that are not those of the settings, and healthy ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from etrm.config import Config, load, with_settings
from etrm.extensions import allow
from etrm.investigation.reference_comparison.first_weights import compare_seeded, compare_structure
from etrm.model.construct import build_variant
from etrm.reference.departure import PipelineStage
from etrm.training.trainer import Trainer, train

OUTSIDE = """
import torch

from etrm.model.encoders import StandardEncoder

class Own(StandardEncoder):
    def __init__(self, config, side):
        super().__init__(config, side)
        self.start_init = torch.nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(0)))
"""


def config_of(**changes: Any) -> Config:
    small = {
        "data": {"max_tasks": 3, "max_side": 3},
        "train": {"batch_size": 2, "threads": 1},
        "monitor": {"enabled": False},
    }
    return with_settings(with_settings(load("smoke"), **small), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"encoder": {"kind": "trm_style", "layer_scale": 0.1}}, "train": {"seed": 2**63 - 1}},
        {"model": {"variant": "trm"}, "data": {"augmentations": 3}},
        {"model": {"encoder": {"pooling": "weighted"}}, "train": {"freeze_decoder_steps": 2}},
    ],
    ids=str,
)
def test_healthy_models_depart_nowhere(changes: dict[str, Any]) -> None:
    config = config_of(**changes)
    trainer = Trainer(config)
    assert [*compare_structure(trainer, config), *compare_seeded(trainer, config)] == []


def test_the_symbolic_solver_departs_nowhere() -> None:
    small = {"max_tasks": 3, "max_side": 3}
    config = with_settings(load("symbolic"), data=small, train={"threads": 1}, monitor={"enabled": False})
    trainer = Trainer(config)
    assert [*compare_structure(trainer, config), *compare_seeded(trainer, config)] == []


def test_a_loaded_core_does_not_depend_on_the_seed(tmp_path: Path) -> None:
    trm = config_of(
        model={"variant": "trm"}, data={"augmentations": 1}, train={"steps": 1, "warmup_steps": 0}
    )
    train(trm, tmp_path / "trm")
    config = config_of(train={"decoder": tmp_path / "trm", "seed": 3})
    trainer = Trainer(config)
    assert list(compare_seeded(trainer, config)) == []
    fill_alike(trainer)
    assert {one.stage for one in compare_seeded(trainer, config)} == {PipelineStage.CONTEXT}


def take_other_seed(trainer: Trainer) -> None:
    torch.manual_seed(trainer.config.train.seed + 5)
    trainer.model.load_state_dict(build_variant(trainer.config.model).state_dict())


@torch.no_grad()
def fill_alike(trainer: Trainer) -> None:
    for value in trainer.model.state_dict().values():
        value.copy_(torch.linspace(0.1, 0.2, value.numel()).view_as(value))


def draw_halting_anew(trainer: Trainer) -> None:
    trainer.halting = torch.Generator()


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (take_other_seed, {PipelineStage.LOADING, PipelineStage.CONTEXT}),
        (fill_alike, {PipelineStage.LOADING, PipelineStage.CONTEXT}),
        (draw_halting_anew, {PipelineStage.HALTING}),
    ],
)
def test_what_the_seed_does_not_decide_departs(
    change: Callable[[Trainer], None], stages: set[PipelineStage]
) -> None:
    config = config_of()
    trainer = Trainer(config)
    change(trainer)
    assert {one.stage for one in compare_seeded(trainer, config)} == stages


def test_weights_from_a_fixed_generator_are_the_same_with_another_seed_and_in_other_tensors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = nn.init.trunc_normal_

    def fixed(tensor: torch.Tensor, **rest: Any) -> torch.Tensor:
        return draw(tensor, **rest, generator=torch.Generator().manual_seed(0))

    monkeypatch.setattr(nn.init, "trunc_normal_", fixed)
    config = config_of()
    found = list(compare_seeded(Trainer(config), config))
    words = " ".join(f"{one.tensor}: {one.where}" for one in found)
    assert "core.lm_head.weight: the same with another seed" in words
    assert "encoder.grid_encoder.output_embed.embedding_weight: the same as" in words
    assert "q_head" not in words  # constant


def test_an_encoder_from_outside_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETRM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "own.py").write_text(OUTSIDE)
    allow(kind := f"{tmp_path}/own.py:Own")
    config = config_of(model={"encoder": {"kind": kind}})
    trainer = Trainer(config)
    assert [*compare_structure(trainer, config), *compare_seeded(trainer, config)] == []
