"""Drawn configs are valid, unusual, and the same for the same seed."""

from __future__ import annotations

import pytest

from etrm.config import check_request, list_settings, load
from etrm.investigation.unlisted import unusual_configs
from etrm.investigation.unlisted.unusual_configs import (
    FURTHER,
    GRAMMAR,
    PRESETS,
    SYMBOLIC,
    draw_config,
    draw_from_presets,
    nest,
)
from etrm.setting_texts import flatten

SEEDS = range(12)


def test_every_name_of_the_grammar_is_a_setting_with_other_values_than_smoke() -> None:
    smoke = flatten(load("smoke").model_dump(mode="json"))
    for name, values in GRAMMAR.items():
        assert any(value != smoke[name] for value in values), name
    assert {*FURTHER, *SYMBOLIC} <= {*list_settings()}


def test_a_config_that_starts_from_a_preset_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unusual_configs, "PRESETS", {"overfit": PRESETS["overfit"]})
    config, settings = draw_from_presets(0)
    assert (config, settings) == draw_from_presets(0)
    preset, *names = settings
    assert preset == "preset"
    assert config.preset == settings["preset"] == "overfit"
    found = flatten(config.model_dump(mode="json"))
    assert all(found[name] == settings[name] for name in names)
    assert config.model.halt.max_steps == 8
    assert config.train.steps <= 60


def test_the_symbolic_solver_gets_settings_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unusual_configs, "PRESETS", {"symbolic": PRESETS["symbolic"]})
    of_models = {
        name for seed in range(4) for name in draw_from_presets(seed)[1] if name.startswith("model.")
    }
    assert of_models
    assert of_models <= {*SYMBOLIC}


def test_a_seed_draws_the_same_config_which_has_the_drawn_settings() -> None:
    base = load("smoke")
    drawn = [draw_config(seed, base) for seed in SEEDS]
    assert drawn[:3] == [draw_config(seed, base) for seed in SEEDS[:3]]
    assert len({config.to_json() for config, _ in drawn}) == len(drawn)
    for config, settings in drawn:
        assert config.faults == ()
        found = flatten(config.model_dump(mode="json"))
        assert {name: found[name] for name in settings} == settings


@pytest.mark.parametrize("seed", [2006, 2231])
def test_a_drawn_config_is_one_that_a_command_accepts(seed: int) -> None:
    """First drawn: stages beyond the largest side of the data; two rows to accumulate in four parts."""
    config, settings = draw_config(seed, load("smoke"))
    assert config.train.batch_size % config.train.accumulate == 0
    assert check_request(config) == config
    assert settings


def test_dotted_names_become_a_tree() -> None:
    assert nest({"a.b": 1, "a.c.d": 2, "e.f": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": {"f": 3}}
