"""Settings that have no effect are named, and those of presets and of variants from outside are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from etrm.config import list_presets, load
from etrm.config.idle_settings import list_idle_settings

TRM = ("model.variant=trm", "data.augmentations=1")


@pytest.mark.parametrize(
    ("settings", "idle"),
    [
        (
            ("train.puzzle_lr=0.1", "train.puzzle_weight_decay=0"),
            {"train.puzzle_lr", "train.puzzle_weight_decay"},
        ),
        ((*TRM, "train.puzzle_lr=0.1"), set()),
        ((*TRM, "train.encoder_lr_scale=2"), {"train.encoder_lr_scale"}),
        (("train.encoder_lr_scale=2",), set()),
        (("train.inner_rate=1",), {"train.inner_rate"}),
        (("train.inner_rate=1", "train.inner_steps=1"), set()),
        (("train.decoder_weights=raw",), {"train.decoder_weights"}),
        (("train.decoder_weights=raw", "train.decoder=runs/trm"), set()),
    ],
)
def test_settings_that_nothing_reads_are_named(settings: tuple[str, ...], idle: set[str]) -> None:
    assert list_idle_settings(load("smoke", overrides=settings)).keys() == idle


def test_a_variant_from_outside_may_use_all(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Mine: ...")
    own = (f"model.variant={file}:Mine", "train.puzzle_lr=0.1", "train.encoder_lr_scale=2")
    assert not list_idle_settings(load("smoke", overrides=own))


@pytest.mark.parametrize("preset", list_presets())
def test_presets_have_none(preset: str) -> None:
    assert not list_idle_settings(load(preset))
