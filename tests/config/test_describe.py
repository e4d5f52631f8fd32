"""The description of every setting, against what the config really takes."""

from __future__ import annotations

from typing import Any

import pytest

from etrm.config import Config, Setting, build, list_sections, list_settings
from etrm.errors import ConfigError
from etrm.setting_texts import flatten

NUMBERS = [
    setting
    for setting in list_settings().values()
    if not setting.values.startswith("list") and ("integer" in setting.values or "number" in setting.values)
]
CHOICES = [(setting, word) for setting in list_settings().values() for word in setting.choices]
LIMITS = [
    (setting, kind, getattr(setting.bounds, kind))
    for setting in NUMBERS
    for kind in ("ge", "gt", "le", "lt")
    if getattr(setting.bounds, kind) is not None
]


def named(value: Any) -> str:
    return value.name if isinstance(value, Setting) else str(value)


def accepts(setting: Setting, value: Any) -> bool:
    """Whether the setting takes a value; that it contradicts another setting does not matter."""
    tree: Any = value
    for part in reversed(setting.name.split(".")):
        tree = {part: tree}
    try:
        build(tree)
    except ConfigError as error:
        invalid = "config.invalid-value", "config.boolean", "config.unknown-setting", "config.unknown-family"
        return error.code not in (*invalid, "config.unreadable-curriculum")
    return True


def test_every_setting_of_the_tree_is_described_once_with_its_default() -> None:
    assert {name: setting.default for name, setting in list_settings().items()} == flatten(
        Config().model_dump(mode="json")
    )
    listed = [setting.name for section in list_sections() for setting in section.settings]
    assert listed == list(list_settings())
    assert len(set(listed)) == len(listed)


def test_sections_hold_their_own_settings_and_have_a_summary() -> None:
    for section in list_sections():
        assert section.summary.endswith(".")
        assert {setting.name.rpartition(".")[0] for setting in section.settings} == {section.name}


@pytest.mark.parametrize("setting", list_settings().values(), ids=named)
def test_a_description_is_a_phrase(setting: Setting) -> None:
    assert len(setting.description.split()) >= 3
    assert not setting.description.endswith(".")
    assert setting.description.isprintable()


@pytest.mark.parametrize("setting", NUMBERS, ids=named)
def test_every_number_has_a_lower_bound(setting: Setting) -> None:
    assert (setting.bounds.ge is None) != (setting.bounds.gt is None)


@pytest.mark.parametrize(("setting", "kind", "limit"), LIMITS, ids=named)
def test_a_bound_is_where_the_config_draws_it(setting: Setting, kind: str, limit: float) -> None:
    beyond = limit - 1 if kind in ("ge", "gt") else limit + 1 if abs(limit) < 1e15 else 2 * limit
    assert not accepts(setting, beyond)
    assert accepts(setting, limit) == (kind in ("ge", "le"))


@pytest.mark.parametrize(("setting", "word"), CHOICES, ids=named)
def test_every_choice_is_accepted(setting: Setting, word: str) -> None:
    assert accepts(setting, [word] if isinstance(setting.default, list) else word)
    if setting.values != "text":
        assert not accepts(setting, ["no such word"] if isinstance(setting.default, list) else "no such word")


@pytest.mark.parametrize("setting", list_settings().values(), ids=named)
def test_none_is_accepted_where_it_is_said(setting: Setting) -> None:
    takes_the_word = "none" in setting.choices  # null means that word
    assert accepts(setting, None) == (setting.optional or takes_the_word)
    assert setting.optional == (setting.values.endswith("none") and not takes_the_word)


def test_the_values_are_named_in_words() -> None:
    found = {name: setting.values for name, setting in list_settings().items()}
    assert found["data.max_side"] == "integer >= 1, <= 30"
    assert found["data.augmentations"] == "integer >= 1 or fresh"
    assert found["train.optimizer"] == "adam_atan2 or adamw"
    assert found["train.clip_norm"] == "number > 0 or none"
    assert found["data.exclude"] == "list of texts"
    assert found["data.curriculum"] == "list of [max_side, steps]"
    assert found["monitor.enabled"] == "true or false"
