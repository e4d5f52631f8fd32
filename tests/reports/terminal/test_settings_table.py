"""What `etrm config` prints."""

from __future__ import annotations

import io
import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rich.console import Console

from etrm.config import list_presets, list_settings, load, resolve, resolve_run, with_settings
from etrm.setting_texts import flatten
from reports.terminal.settings_table import settings_json, settings_toml, tables

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@pytest.mark.parametrize("preset", list_presets())
def test_the_toml_of_a_preset_gives_the_preset(preset: str, tmp_path: Path) -> None:
    found = resolve(preset, overrides=("train.clip_norm=none",))
    path = tmp_path / "mine.toml"
    path.write_text(settings_toml(found), encoding="utf-8")
    assert load(path=path) == found.config


@given(source=TEXTS, exclude=st.lists(TEXTS, max_size=3), rate=st.floats(1e-300, 1e30), folder=TEXTS)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_toml_of_any_run_gives_its_config(
    source: str, exclude: list[str], rate: float, folder: str, tmp_path: Path
) -> None:
    config = with_settings(
        load("smoke"),
        preset="",
        data={
            "source": source,
            "exclude": exclude,
            "augmentations": 1,
            "curriculum": [[2, 9], [5, 11]],
            "replay": 0.5,
        },
        train={"lr": rate},
    )
    path = tmp_path / "mine.toml"
    path.write_text(settings_toml(resolve_run(Path(folder), config)), encoding="utf-8")
    assert load(path=path) == config


def test_every_line_of_the_toml_has_a_value_and_where_it_comes_from() -> None:
    lines = settings_toml(resolve("smoke", overrides=("train.steps=7",))).splitlines()
    by_name = {line.partition(" = ")[0]: line for line in lines}
    assert list(by_name) == list(list_settings())
    assert " = 7 " in by_name["train.steps"]
    assert " # --set, default 1000 | integer >= 1 | " in by_name["train.steps"]
    assert " # preset smoke, default 512 |" in by_name["model.hidden_size"]
    assert " # default |" in by_name["train.beta1"]


def test_the_json_has_values_sources_and_descriptions() -> None:
    found = resolve("smoke", overrides=("train.steps=7",))
    rows = {row["name"]: row for row in json.loads(settings_json(found))}
    assert {name: row["value"] for name, row in rows.items()} == flatten(found.config.model_dump(mode="json"))
    steps = rows["train.steps"]
    assert (steps["value"], steps["default"]) == (7, 1000)
    assert steps["source"] == {"kind": "--set", "name": ""}
    assert steps["bounds"] == {"ge": 1, "gt": None, "le": None, "lt": None}
    assert rows["model.hidden_size"]["source"] == {"kind": "preset", "name": "smoke"}
    assert rows["train.optimizer"]["choices"] == ["adam_atan2", "adamw"]


def test_the_tables_show_every_setting_whatever_its_value() -> None:
    found = resolve("smoke", overrides=("data.source='[red]a[/]'", "train.seed=123456"))
    console = Console(file=io.StringIO(), width=200)
    console.print(tables(found))
    assert isinstance(console.file, io.StringIO)
    lines = [line.split() for line in console.file.getvalue().splitlines() if line.strip()]
    # A description may end with the name of a setting in a line of its own.
    rows = {words[0]: at for at, words in enumerate(lines) if words[0] in list_settings() and len(words) > 1}
    assert set(rows) == set(list_settings())
    assert lines[rows["data.source"]][1] == "[red]a[/]"
    assert lines[rows["data.source"] + 1][0] == "--set"
    assert lines[rows["train.seed"]][1] == "123456"
    assert (lines[rows["train.seed"] + 1][0], lines[rows["train.seed"] + 1][-2:]) == (
        "--set",
        ["default:", "0"],
    )
    assert lines[rows["train.beta1"]][1] == "0.9"
    assert lines[rows["train.beta1"] + 1][0] == "default"
    assert lines[rows["train.beta1"] + 1][-2:] == ["default:", "0.9"]


def test_the_names_of_settings_are_whole_in_80_columns() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(tables(resolve("small")))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert set(list_settings()) <= {line.split()[0] for line in lines if line.strip()}


def test_the_toml_is_valid_whatever_the_folder_is_called() -> None:
    found = resolve_run(Path("a\nb = 1"), load("smoke"))
    assert set(flatten(tomllib.loads(settings_toml(found)))) == set(list_settings())
