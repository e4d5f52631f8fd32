"""Presets, files, runs and overrides as layers; where each value comes from; changes by code."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from etrm.config import (
    Config,
    HaltConfig,
    Source,
    build,
    check_request,
    list_presets,
    load,
    resolve,
    resolve_run,
    with_overrides,
    with_settings,
)
from etrm.errors import ConfigError
from etrm.setting_texts import flatten
from etrm.training.faults import FAULTS, apply_faults

CONFIG_CODE = Path(__file__).parents[2] / "etrm" / "config"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file that extends a preset."""
    path = tmp_path / "mine.toml"
    path.write_text('preset = "smoke"\ntrain.steps = 7\n[model.halt]\nmax_steps = 3\n')
    return path


def values(config: Config) -> dict[str, Any]:
    return flatten(config.model_dump(mode="json"))


def preset_values(name: str) -> dict[str, Any]:
    text = (resources.files("etrm") / "presets" / f"{name}.toml").read_text("utf-8")
    return flatten(tomllib.loads(text))


def code_of(*arguments: Any, **named: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(*arguments, **named)
    return caught.value.code


def test_a_file_extends_the_preset_that_it_names(mine: Path) -> None:
    found = load(path=mine, overrides=("train.lr=0.5",))
    assert found == load("smoke", overrides=("train.steps=7", "model.halt.max_steps=3", "train.lr=0.5"))
    assert (found.preset, found.model.hidden_size, found.model.halt.exploration) == ("smoke", 32, 0.1)


def test_a_file_without_a_preset_extends_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for first in ("", 'preset = ""\n'):
        path.write_text(f"{first}[train]\nsteps = 7\n")
        assert load(path=path) == load(overrides=("train.steps=7",))


@pytest.mark.parametrize(
    ("preset", "code"),
    [
        ('"smok"', "config.unknown-preset"),
        ("3", "config.invalid-value"),
        ("{name = 'smoke'}", "config.invalid-value"),
    ],
)
def test_a_file_with_an_impossible_preset_is_refused(tmp_path: Path, preset: str, code: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"preset = {preset}\n")
    assert code_of(path=path) == code


def test_an_unknown_preset_of_a_file_names_file_and_presets(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('preset = "smok"\n')
    with pytest.raises(ConfigError) as caught:
        load(path=path)
    assert str(path) in caught.value.what
    assert "'smoke'" in caught.value.what
    assert caught.value.allowed.split(", ") == list_presets()


def test_none_in_a_file_unsets_what_may_be_unset_and_is_a_word_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'preset = "smoke"\n[train]\nclip_norm = "none"\n[model]\npositions = "none"\n[data]\nsource = "none"\n'
    )
    found = load(path=path)
    assert load("smoke").train.clip_norm == 1.0
    assert found.train.clip_norm is None
    assert (found.model.positions, found.data.source) == ("none", "none")


@pytest.mark.parametrize("parts", [10, 900, 1000, 5_000])
def test_a_file_of_deep_sections_is_refused(tmp_path: Path, parts: int) -> None:
    path = tmp_path / "deep.toml"
    path.write_text("a." * parts + "a = 1\n")
    assert code_of(path=path) in ("config.unknown-setting", "config.too-deep")


def test_a_preset_is_chosen_in_one_place(mine: Path) -> None:
    assert code_of("small", mine) == "config.preset-and-file"
    assert code_of("small", overrides=("preset=smoke",)) == "config.preset-as-setting"
    with pytest.raises(ConfigError) as caught:
        with_overrides(load("small"), ("preset=smoke",))
    assert caught.value.code == "config.preset-as-setting"


# -- sources ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", list_presets())
def test_every_value_comes_from_the_layer_that_is_named(preset: str) -> None:
    given = ("train.lr=0.5", "model.encoder.layers=2")
    found = resolve(preset, overrides=given)
    stated, defaults, shown = preset_values(preset), values(Config()), values(found.config)
    assert set(found.sources) == set(shown)
    for name, source in found.sources.items():
        if name in ("train.lr", "model.encoder.layers"):
            assert source == Source("--set")
        elif name == "preset" or name in stated:
            assert source == Source("preset", preset)
            assert shown[name] == stated.get(name, preset)
        else:
            assert source == Source("default")
            assert shown[name] == defaults[name]


def test_a_file_stands_over_its_preset(mine: Path) -> None:
    sources = resolve(path=mine, overrides=("train.lr=0.5",)).sources
    file, preset = Source("file", str(mine)), Source("preset", "smoke")
    wanted = {
        "preset": file,
        "train.steps": file,
        "model.halt.max_steps": file,
        "model.halt.exploration": preset,
        "train.lr": Source("--set"),
        "train.beta1": Source("default"),
    }
    assert {name: sources[name] for name in wanted} == wanted


def test_a_whole_section_that_is_set_begins_at_the_defaults() -> None:
    found = resolve("smoke", overrides=("model.halt.exploration=0.3", "model.halt={max_steps = 2}"))
    assert found.config.model.halt == HaltConfig(max_steps=2)
    assert found.sources["model.halt.max_steps"] == Source("--set")
    assert found.sources["model.halt.exploration"] == Source("default")


def test_a_run_gives_every_value_that_is_not_set(tmp_path: Path) -> None:
    config = load("smoke", overrides=("train.seed=4",))
    found = resolve_run(tmp_path, config, ("train.lr=0.5",))
    assert found.config == with_overrides(config, ("train.lr=0.5",))
    rest = {source for name, source in found.sources.items() if name != "train.lr"}
    assert (found.sources["train.lr"], rest) == (Source("--set"), {Source("run", str(tmp_path))})


def test_the_config_of_a_run_is_read_as_it_is_whatever_its_preset_says() -> None:
    """A config.json holds every value: its preset is a label."""
    label = Config().model_copy(update={"preset": "smoke"})
    found = Config.from_json(label.to_json())
    assert (found.preset, found.model.hidden_size) == ("smoke", 512)
    assert Config.from_json('{"preset": "of an older version"}').preset == "of an older version"


# -- what a person may request ------------------------------------------------------------------------


def test_a_warm_up_beyond_the_run_can_be_built_and_not_requested() -> None:
    long = build({"train": {"steps": 5, "warmup_steps": 6}})
    for refused in (lambda: check_request(long), lambda: apply_faults(long)):
        with pytest.raises(ConfigError) as caught:
            refused()
        assert caught.value.code == "config.warmup-beyond-run"
    just = build({"train": {"steps": 5, "warmup_steps": 5}})
    assert check_request(just) is just


def test_a_fault_that_warms_up_too_long_can_be_injected_and_not_requested_by_hand() -> None:
    inject = "faults=['warmup-too-long']"
    requested = load("smoke", overrides=(inject,))
    used = apply_faults(requested)
    assert used.train.warmup_steps == 20 * used.train.steps
    assert Config.from_json(used.to_json()) == used
    assert code_of("smoke", overrides=(inject, "train.warmup_steps=999")) == "config.warmup-beyond-run"


def test_no_fault_is_known_to_the_config_by_name() -> None:
    code = "\n".join(path.read_text("utf-8") for path in sorted(CONFIG_CODE.glob("*.py")))
    literals = set(re.findall(r"""["']([\w-]+)["']""", code))
    assert "etrm_cached" in literals
    assert not literals & set(FAULTS)


# -- changes by code ----------------------------------------------------------------------------------


def test_settings_are_replaced_and_the_rest_stays() -> None:
    config = load("smoke", overrides=("faults=['eval-leak']",))
    before = config.to_json()
    found = with_settings(
        config,
        train={"steps": 30, "decoder": Path("it's here")},
        model={"halt": {"max_steps": 2}},
        faults=(),
    )
    assert found == with_overrides(
        config,
        ("train.steps=30", 'train.decoder="it\'s here"', "model.halt.max_steps=2", "faults=[]"),
    )
    assert config.to_json() == before
    assert with_settings(config) == config


def test_a_section_as_a_whole_replaces_the_section() -> None:
    config = load("smoke", overrides=("model.halt.exploration=0.3",))
    found = with_settings(config, model={"halt": HaltConfig(max_steps=2)})
    assert found.model.halt == HaltConfig(max_steps=2)
    assert found.model.hidden_size == config.model.hidden_size


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"trian": {"steps": 3}}, "config.unknown-setting", "'train'"),
        ({"train": {"stpes": 3}}, "config.unknown-setting", "'train.steps'"),
        ({"train": {"steps": 0}}, "config.invalid-value", "train.steps"),
        ({"train": {"lr": 0}}, "config.nothing-trains", "train.lr"),
        ({"preset": "small"}, "config.other-preset", "preset"),
    ],
)
def test_changes_are_checked(changes: dict[str, Any], code: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_settings(load("smoke"), **changes)
    assert caught.value.code == code
    assert named in caught.value.what


def test_the_label_of_a_preset_can_be_dropped_or_kept() -> None:
    config = load("smoke")
    assert with_settings(config, preset="").preset == ""
    assert with_settings(config, preset="smoke") == config
