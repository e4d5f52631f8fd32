"""Drawn configs are valid, unusual, and the same for the same seed."""

from __future__ import annotations

import pytest

from etrm.config import (
    DataConfig,
    EncoderConfig,
    EvaluateConfig,
    HaltConfig,
    ModelConfig,
    TrainConfig,
    check_request,
    load,
)
from etrm.investigation.unlisted.unusual_configs import GRAMMAR, draw_config, nest

SEEDS = range(12)
SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    "model.encoder": EncoderConfig,
    "model.halt": HaltConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
}


def test_every_name_of_the_grammar_is_a_setting_with_other_values_than_smoke() -> None:
    smoke = load("smoke").model_dump()
    for name, values in GRAMMAR.items():
        section, _, last = name.rpartition(".")
        assert last in SECTIONS[section].model_fields
        tree = smoke
        for part in section.split("."):
            tree = tree[part]
        assert any(value != tree[last] for value in values), name


def test_a_seed_draws_the_same_config_which_has_the_drawn_settings() -> None:
    base = load("smoke")
    drawn = [draw_config(seed, base) for seed in SEEDS]
    assert drawn[:3] == [draw_config(seed, base) for seed in SEEDS[:3]]
    assert len({config.to_json() for config, _ in drawn}) == len(drawn)
    for config, settings in drawn:
        assert config.faults == ()
        for name, value in settings.items():
            found = config.model_dump(mode="json")
            for part in name.split("."):
                found = found[part]
            assert found == value


@pytest.mark.parametrize("seed", [2006, 2231])
def test_a_drawn_config_is_one_that_a_command_accepts(seed: int) -> None:
    """First drawn: stages beyond the largest side of the data; two rows to accumulate in four parts."""
    config, settings = draw_config(seed, load("smoke"))
    assert config.train.batch_size % config.train.accumulate == 0
    assert check_request(config) == config
    assert settings


def test_dotted_names_become_a_tree() -> None:
    assert nest({"a.b": 1, "a.c.d": 2, "e.f": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": {"f": 3}}
